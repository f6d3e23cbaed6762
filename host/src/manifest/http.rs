//! The hosts that a handler may call over HTTP.

/// Which hosts and ports may be called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpGrants(Vec<String>);

impl FromIterator<String> for HttpGrants {
    fn from_iter<I: IntoIterator<Item = String>>(grants: I) -> Self {
        Self(grants.into_iter().collect())
    }
}
