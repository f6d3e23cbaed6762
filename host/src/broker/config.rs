//! A hash that a handler's plugin reads as its configuration, as it is at each call.

use std::sync::Arc;

use super::Broker;
use super::keyvalue::{Asker, StoreRefusal, blob, sized};
use super::reply;
use super::scripts::Lua;

/// Bytes of a configuration that are read at most: more is a data set.
const BYTES_MAX: usize = 1 << 20;

/// A hash of texts.
pub struct ConfigHash {
    asker: Asker,
    key: Arc<str>,
}

impl Broker {
    /// A hash as a plugin's configuration; it need not be there.
    pub fn config(&self, key: Arc<str>) -> ConfigHash {
        ConfigHash { asker: Asker::new(self.link.clone(), key.clone()), key }
    }
}

impl ConfigHash {
    /// The text of a name.
    ///
    /// # Errors
    ///
    /// Why Redis did not give it; also when it is no text.
    pub async fn get(&self, name: &str) -> Result<Option<String>, StoreRefusal> {
        let mut asking = Lua::Consult.call(&[&self.key]);
        let answer = sized(self.asker.ask(asking.arg(BYTES_MAX).arg(name)).await?)?;
        blob(answer).map(text).transpose()
    }

    /// All names with their texts, in no order.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub async fn get_all(&self) -> Result<Vec<(String, String)>, StoreRefusal> {
        let answer = self.asker.ask(Lua::Consult.call(&[&self.key]).arg(BYTES_MAX)).await?;
        let mut parts = reply::array("consult.lua", sized(answer)?)?.into_iter().filter_map(blob);
        let mut pairs = Vec::new();
        while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            pairs.push((text(name)?, text(value)?));
        }
        Ok(pairs)
    }
}

fn text(bytes: Vec<u8>) -> Result<String, StoreRefusal> {
    let foreign =
        || StoreRefusal::Refused("the configuration has bytes that are no text".to_owned());
    String::from_utf8(bytes).map_err(|_| foreign())
}
