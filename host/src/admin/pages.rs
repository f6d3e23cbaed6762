//! What is answered at each path.

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use super::asked::Asked;
use super::readiness::Readiness;
use super::{LIVE, READY, exposition, metrics};
use crate::host::{Roster, Status};
use crate::shutdown::Stop;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

const METRICS: &str = "/metrics";
const STATUS: &str = "/api/status";

const START: &str = include_str!("start.html");

const NOSNIFF: HeaderName = HeaderName::from_static("x-content-type-options");

/// Everything there is to see.
pub(super) struct Pages {
    roster: Roster,
    stopping: Stop,
    asked: Asked,
}

impl Pages {
    pub(super) fn new(roster: Roster, stopping: Stop) -> Self {
        Self { roster, stopping, asked: Asked::default() }
    }

    /// The answer to a request, whose body is nobody's business.
    pub(super) async fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if !["/", LIVE, READY, METRICS, STATUS].contains(&path) {
            let known = format!("nothing here; there are / {LIVE} {READY} {METRICS} {STATUS}\n");
            return page(StatusCode::NOT_FOUND, TEXT, known);
        }
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let refused = "this can only be read\n".to_owned();
            let mut refusal = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, refused);
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        match path {
            LIVE => page(StatusCode::OK, TEXT, "alive\n".to_owned()),
            READY => self.ready(wants_json(request)),
            METRICS => page(StatusCode::OK, exposition::CONTENT_TYPE, self.metrics().await),
            STATUS => self.status().await,
            _ => page(StatusCode::OK, HTML, START.to_owned()),
        }
    }

    fn ready(&self, form: Form) -> Response<Full<Bytes>> {
        let readiness = Readiness::of(&self.roster, &self.stopping);
        let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        match form {
            Form::Text => page(status, TEXT, readiness.to_string()),
            Form::Json => json(status, &readiness),
        }
    }

    async fn metrics(&self) -> String {
        let answers = self.asked.now(&self.roster).await;
        let readiness = Readiness::of(&self.roster, &self.stopping);
        metrics::text(&self.roster, &readiness, &answers.status)
    }

    async fn status(&self) -> Response<Full<Bytes>> {
        let answers = self.asked.now(&self.roster).await;
        let code = match answers.failed {
            None => StatusCode::OK,
            Some(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let told = Told { status: &answers.status, error: answers.failed.as_deref() };
        json(code, &told)
    }
}

/// What is known of the handlers, and why not all of it is.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    status: &'a Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// How an answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json,
}

fn wants_json<B>(request: &Request<B>) -> Form {
    let asked = request.uri().query().into_iter().flat_map(|query| query.split('&'));
    let accepted = request.headers().get_all(ACCEPT).iter();
    let accepts = accepted.filter_map(|value| value.to_str().ok());
    let json = asked.into_iter().any(|pair| pair == "format=json")
        || accepts.flat_map(|list| list.split(',')).any(|one| one.trim().starts_with(JSON));
    if json { Form::Json } else { Form::Text }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    let text =
        serde_json::to_string_pretty(value).expect("names, texts and numbers are plain JSON");
    page(status, JSON, text + "\n")
}

fn page(status: StatusCode, form: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(form));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(NOSNIFF, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages() -> Pages {
        Pages::new(Roster::default(), Stop::new())
    }

    async fn ask(method: Method, uri: &str) -> Response<Full<Bytes>> {
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        pages().answer(&request).await
    }

    #[tokio::test]
    async fn what_is_not_there_is_said_so_and_nothing_can_be_written() {
        assert_eq!(ask(Method::GET, "/secret").await.status(), StatusCode::NOT_FOUND);
        assert_eq!(ask(Method::GET, "/livez/").await.status(), StatusCode::NOT_FOUND);
        for path in ["/", LIVE, READY, METRICS, STATUS] {
            let refused = ask(Method::POST, path).await;
            assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
            assert_eq!(refused.headers()[ALLOW], "GET, HEAD");
        }
        assert_eq!(ask(Method::HEAD, LIVE).await.status(), StatusCode::OK);
        assert_eq!(ask(Method::GET, "/").await.status(), StatusCode::OK);
    }

    #[test]
    fn readiness_is_json_for_whom_it_is_easier_to_read() {
        let form = |uri: &str, accept: &str| {
            let request = Request::builder().uri(uri).header(ACCEPT, accept).body(()).unwrap();
            wants_json(&request)
        };
        assert_eq!(form("/readyz", "*/*"), Form::Text);
        assert_eq!(form("/readyz?format=json", "*/*"), Form::Json);
        assert_eq!(form("/readyz", "text/html, application/json;q=0.9"), Form::Json);
    }
}
