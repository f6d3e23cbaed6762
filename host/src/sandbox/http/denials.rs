//! Tells the operator of requests that were refused, once for each host, with what would allow them.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::target::Target;

/// Hosts of one handler that are told of. A guest chooses what it asks for.
const HOSTS_MAX: usize = 100;

/// What was refused to one handler.
pub(super) struct Denials {
    handler: Arc<str>,
    told: Mutex<HashSet<String>>,
}

impl Denials {
    pub(super) fn new(handler: Arc<str>) -> Self {
        Self { handler, told: Mutex::default() }
    }

    /// A host that is not granted.
    pub(super) fn ungranted(&self, target: &Target) {
        if self.is_news(target) {
            tracing::warn!(handler = %self.handler, host = %target,
                grant = %format_args!("http = [\"{target}\"]"),
                "refused a request to a host that the handler is not granted");
        }
    }

    /// A granted name that stands for nothing but addresses that are not public.
    pub(super) fn prohibited(&self, target: &Target, address: IpAddr) {
        if self.is_news(target) {
            tracing::warn!(handler = %self.handler, host = %target, %address,
                grant = %format_args!("http = [\"{target}\", \"{}\"]", ipnet::IpNet::from(address)),
                "refused a request to a host whose address is not public and not granted");
        }
    }

    fn is_news(&self, target: &Target) -> bool {
        // A set of texts is whole between any two of its calls.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < HOSTS_MAX && told.insert(target.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_is_told_of_once_and_not_too_many() {
        let denials = Denials::new("h".into());
        let target = |n: usize| Target::of(&format!("http://h{n}.test/").parse().unwrap()).unwrap();
        assert!(denials.is_news(&target(0)));
        assert!(!denials.is_news(&target(0)));
        let told = (1..1000).filter(|n| denials.is_news(&target(*n))).count();
        assert_eq!(told, HOSTS_MAX - 1);
    }
}
