//! Requests that a guest makes over HTTP: to the hosts its handler is granted, within its limits.
//!
//! [`Client`] is what all calls of a handler share. A request waits for its place (`http-calls`), the
//! host is looked up once and an address that may be called is dialled (`dial`), and the request goes
//! over a connection of its own (`send`), whose bodies have bounds (`body`). The whole of it ends at
//! `http-timeout`. Every redirection is another request of the guest's, and is checked as one.
//! Nothing of the host's environment goes in: no proxies, no cookies, no headers.

mod body;
mod denials;
mod dial;
mod hooks;
mod offers;
mod patience;
mod send;
mod target;
mod trouble;
mod trust;

use std::sync::Arc;

use http::{Method, Request};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

pub(super) use self::hooks::Http;
pub(super) use self::offers::OFFERS;

use self::denials::Denials;
use self::patience::Patience;
use self::send::Sent;
use self::target::Target;
use super::SandboxError;
use super::reach::Reach;
use crate::manifest::{HttpGrants, Limits};

/// One of the `http-calls` that a handler may have in flight.
type Place = OwnedSemaphorePermit;

/// What makes the requests of one handler, over all of its instances.
pub(super) struct Client {
    grants: HttpGrants,
    limits: Limits,
    places: Arc<Semaphore>,
    /// There is none where nothing is granted.
    tls: Option<TlsConnector>,
    denials: Denials,
}

impl Client {
    pub(super) fn new(
        handler: Arc<str>,
        reach: &Reach,
        limits: Limits,
    ) -> Result<Self, SandboxError> {
        let grants = reach.http.clone().unwrap_or_default();
        let tls = reach.http.as_ref().map(|_| trust::connector()).transpose()?;
        let places = Arc::new(Semaphore::new(limits.http_calls));
        Ok(Self { grants, limits, places, tls, denials: Denials::new(handler) })
    }

    /// Sends a request, and gives the head of the response with a body that is still to come.
    async fn send(
        &self,
        mut request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Sent, Error> {
        let patience = Patience::new(self.limits.http_timeout, options);
        let target = self.target(&request)?;
        send::address(&mut request, &target)?;
        let place = timeout_at(patience.end(), self.places.clone().acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            return Err(Error::ConnectionLimitReached);
        };
        let until = patience.connected();
        let dialled = timeout_at(until, dial::dial(self, &target, place, until)).await;
        let (stream, place) = dialled.unwrap_or(Err(Error::ConnectionTimeout))?;
        send::over(stream, place, request, patience, self.limits.http_bytes).await
    }

    /// Where a request is to go, if it may.
    fn target(&self, request: &Request<WasiBody>) -> Result<Target, Error> {
        let target = Target::of(request.uri())?;
        // It would make a tunnel to somewhere else of whatever proxy is called.
        if *request.method() == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        if !self.grants.allows(&target.host, target.port, target.scheme) {
            self.denials.ungranted(&target);
            return Err(Error::HttpRequestDenied);
        }
        Ok(target)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::{BodyExt, Empty};

    use super::*;
    use crate::manifest::HttpGrant;

    /// A client whose one place is taken.
    fn crowded(timeout: Duration) -> (Client, Place) {
        let limits = Limits { http_timeout: timeout, http_calls: 1, ..Limits::default() };
        let http = Some([HttpGrant::parse("127.0.0.1").unwrap()].into_iter().collect());
        let reach = Reach { http, ..Reach::default() };
        let client = Client::new("h".into(), &reach, limits).unwrap();
        let place = client.places.clone().try_acquire_owned().unwrap();
        (client, place)
    }

    fn request(method: Method) -> Request<WasiBody> {
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        Request::builder().method(method).uri("http://127.0.0.1/").body(body).unwrap()
    }

    #[tokio::test]
    async fn a_request_that_gets_no_place_in_time_is_told_so() {
        let (client, _place) = crowded(Duration::from_millis(20));
        let refused = client.send(request(Method::GET), RequestOptions::default()).await;
        assert!(matches!(refused.err(), Some(Error::ConnectionLimitReached)));
    }

    #[tokio::test]
    async fn a_tunnel_is_refused_before_anything_is_dialled() {
        let (client, _place) = crowded(Duration::from_secs(60));
        let refused = client.send(request(Method::CONNECT), RequestOptions::default()).await;
        assert!(matches!(refused.err(), Some(Error::HttpRequestMethodInvalid)));
    }
}
