//! From a handler's grants to what its plugin reaches.

use std::sync::Arc;

use crate::broker::Broker;
use crate::manifest::Grants;
use crate::sandbox::{Configuration, KeyValue, Reach, Unreachable};

/// What a plugin reaches through a connected broker.
pub(super) fn through(_broker: &Arc<Broker>, grants: &Grants) -> Reach {
    apart(grants)
}

/// The same interfaces with nothing behind them, to prove that a plugin fits and starts.
pub(super) fn apart(grants: &Grants) -> Reach {
    let keyvalue = |_: &Arc<str>| Arc::new(Unreachable) as Arc<dyn KeyValue>;
    let config = |_: &Arc<str>| Arc::new(Unreachable) as Arc<dyn Configuration>;
    Reach {
        env: grants.env.clone(),
        keyvalue: grants.keyvalue.as_ref().map(keyvalue),
        config: grants.config.as_ref().map(config),
        http: grants.http.clone(),
    }
}
