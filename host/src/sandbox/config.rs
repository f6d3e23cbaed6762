//! `wasi:config/store`: names and texts that a handler's plugin reads, as they are at each call.

use std::sync::Arc;

use wasmtime::Result;
use wasmtime::component::{HasSelf, Linker};

use super::guest::Guest;
use super::offer::{Grant, Offer};
use super::reach::{Configuration, StoreError};

use self::wit::wasi::config::store;

mod wit {
    #![allow(missing_docs, unreachable_pub)]
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "wasi:config/imports",
        imports: { default: async | trappable },
    });
}

/// The one version that guests are built against.
pub(super) const OFFERS: &[Offer] = &[Offer {
    interface: "wasi:config/store",
    version: "0.2.0-rc.1",
    grant: Some(Grant::Config),
    add,
}];

fn add(linker: &mut Linker<Guest>) -> Result<()> {
    store::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
}

impl Guest {
    fn configuration(&self) -> std::result::Result<Arc<dyn Configuration>, store::Error> {
        let ungranted = || store::Error::Upstream("no configuration is granted".to_owned());
        self.config.clone().ok_or_else(ungranted)
    }
}

impl store::Host for Guest {
    async fn get(
        &mut self,
        name: String,
    ) -> Result<std::result::Result<Option<String>, store::Error>> {
        let config = match self.configuration() {
            Ok(config) => config,
            Err(error) => return Ok(Err(error)),
        };
        Ok(config.get(&name).await.map_err(told))
    }

    async fn get_all(
        &mut self,
    ) -> Result<std::result::Result<Vec<(String, String)>, store::Error>> {
        let config = match self.configuration() {
            Ok(config) => config,
            Err(error) => return Ok(Err(error)),
        };
        Ok(config.get_all().await.map_err(told))
    }
}

fn told(error: StoreError) -> store::Error {
    let why = error.to_string();
    match error {
        StoreError::Unavailable(_) => store::Error::Io(why),
        StoreError::Denied(_) | StoreError::Refused(_) => store::Error::Upstream(why),
        StoreError::TooLarge(_) => {
            store::Error::Upstream(format!("the configuration is larger than can be read: {why}"))
        }
    }
}
