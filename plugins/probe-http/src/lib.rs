//! Makes the request that the fields of a message describe: the plugin that the tests of calling out drive.
//!
//! | field               | what it is                                              |
//! |---------------------|---------------------------------------------------------|
//! | `url=<url>`         | where to; `http://` or `https://`, then what is sent as it stands |
//! | `method=<method>`   | `GET` without it                                        |
//! | `header=<a: b>`     | a header; may be repeated                               |
//! | `body=<text>`       | the body                                                |
//! | `body-bytes=<n>`    | a body of n bytes                                       |
//! | `connect-ms=<n>`, `first-byte-ms=<n>`, `between-bytes-ms=<n>` | the request's own timeouts |
//! | `follow`            | follows one redirection                                 |
//! | `abandon`           | asks and does not wait for the answer                   |
//!
//! It appends to `out` an entry with the message's `id`, and `status`, `bytes`, `body` (as long as
//! it is short) and a `header` for each of the response, or `error` with the code that it was given.

use exports::tidegate::plugin::handler::Guest;
use tidegate::plugin::types::{Entry, Failure, Field, Message, Output};
use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{
    ErrorCode, Headers, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest,
    RequestOptions, Scheme, http_error_code,
};
use wasip2::io::streams::{InputStream, StreamError};

wit_bindgen::generate!({ path: "../../wit", world: "plugin", generate_all });

struct Probe;
export!(Probe);

/// Bodies up to this many bytes are shown.
const SHOWN_MAX: usize = 4096;

/// Bytes that go into one write.
const WRITE: usize = 4096;

impl Guest for Probe {
    fn handle(message: Message) -> Result<Vec<Output>, Failure> {
        let ask = Ask(&message);
        if ask.has("abandon") {
            let sent = ask.url().and_then(|url| ask.send(&url));
            std::mem::forget(sent);
            return Ok(vec![entry(&message, vec![field("abandoned", "")])]);
        }
        let fields = match ask.url().and_then(|url| ask.answer(&url)) {
            Ok(fields) => fields,
            Err(error) => vec![field("error", error)],
        };
        Ok(vec![entry(&message, fields)])
    }
}

/// A message that describes a request.
struct Ask<'a>(&'a Message);

impl Ask<'_> {
    fn answer(&self, url: &str) -> Result<Vec<Field>, String> {
        let response = self.respond(url)?;
        let location = header(&response, "location");
        if let (true, Some(location)) = (self.has("follow"), location) {
            drop(response);
            return shown(self.respond(&location)?);
        }
        shown(response)
    }

    fn respond(&self, url: &str) -> Result<IncomingResponse, String> {
        let future = self.send(url)?;
        future.subscribe().block();
        let answered = future.get().ok_or("there is no answer")?;
        answered.map_err(|()| "the answer was taken")?.map_err(|code| told(&code))
    }

    fn send(&self, url: &str) -> Result<wasip2::http::types::FutureIncomingResponse, String> {
        let request = self.request(url)?;
        let body = request.body().map_err(|()| "the body was taken")?;
        let future = handle(request, Some(self.options()?)).map_err(|code| told(&code))?;
        // An answer may come before the body is sent; the answer says more.
        let _ = self.write(body);
        Ok(future)
    }

    fn request(&self, url: &str) -> Result<OutgoingRequest, String> {
        let (scheme, rest) = url.split_once("://").ok_or("the url has no scheme")?;
        let at = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        let headers = Headers::new();
        for line in self.all("header") {
            let (name, value) = line.split_once(": ").ok_or("a header has no colon")?;
            headers.append(name, value.as_bytes()).map_err(|error| format!("{name}: {error:?}"))?;
        }
        let request = OutgoingRequest::new(headers);
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            other => Scheme::Other(other.to_owned()),
        };
        let set = request
            .set_method(&method(&self.one("method").unwrap_or_default()))
            .and_then(|()| request.set_scheme(Some(&scheme)))
            .and_then(|()| request.set_authority(Some(authority)))
            .and_then(|()| {
                request.set_path_with_query(Some(if path.is_empty() { "/" } else { path }))
            });
        set.map_err(|()| "not a request")?;
        Ok(request)
    }

    fn options(&self) -> Result<RequestOptions, String> {
        let options = RequestOptions::new();
        let set = options
            .set_connect_timeout(self.millis("connect-ms"))
            .and_then(|()| options.set_first_byte_timeout(self.millis("first-byte-ms")))
            .and_then(|()| options.set_between_bytes_timeout(self.millis("between-bytes-ms")));
        set.map_err(|()| "not the options of a request")?;
        Ok(options)
    }

    fn write(&self, body: OutgoingBody) -> Result<(), String> {
        let bytes = match self.one("body-bytes").and_then(|bytes| bytes.parse().ok()) {
            Some(bytes) => vec![b'x'; bytes],
            None => self.one("body").unwrap_or_default().into_bytes(),
        };
        let stream = body.write().map_err(|()| "the body's stream was taken")?;
        for piece in bytes.chunks(WRITE) {
            stream.blocking_write_and_flush(piece).map_err(|error| broken(&error))?;
        }
        drop(stream);
        OutgoingBody::finish(body, None).map_err(|code| told(&code))
    }

    fn url(&self) -> Result<String, String> {
        self.one("url").ok_or_else(|| "there is no url".to_owned())
    }

    fn millis(&self, name: &str) -> Option<u64> {
        self.one(name).and_then(|text| text.parse::<u64>().ok()).map(|millis| millis * 1_000_000)
    }

    fn has(&self, name: &str) -> bool {
        self.one(name).is_some()
    }

    fn one(&self, name: &str) -> Option<String> {
        self.all(name).next()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = String> {
        let fields = self.0.fields.iter().filter(move |field| field.name == name);
        fields.map(|field| String::from_utf8_lossy(&field.value).into_owned())
    }
}

fn method(name: &str) -> Method {
    match name {
        "" | "GET" => Method::Get,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "HEAD" => Method::Head,
        "CONNECT" => Method::Connect,
        other => Method::Other(other.to_owned()),
    }
}

/// What is told of a response, its whole body read.
fn shown(response: IncomingResponse) -> Result<Vec<Field>, String> {
    let mut fields = vec![field("status", response.status().to_string())];
    for (name, value) in response.headers().entries() {
        let line = [name.as_bytes(), b": ", &value].concat();
        fields.push(field("header", line));
    }
    let body = response.consume().map_err(|()| "the body was taken")?;
    let stream = body.stream().map_err(|()| "the body's stream was taken")?;
    let (bytes, start) = read(&stream)?;
    drop(stream);
    drop(IncomingBody::finish(body));
    fields.push(field("bytes", bytes.to_string()));
    if bytes <= SHOWN_MAX {
        fields.push(field("body", start));
    }
    Ok(fields)
}

/// How long a body is, and how it begins.
fn read(stream: &InputStream) -> Result<(usize, Vec<u8>), String> {
    let (mut bytes, mut start) = (0, Vec::new());
    loop {
        match stream.blocking_read(64 << 10) {
            Ok(piece) => {
                bytes += piece.len();
                let room = SHOWN_MAX.saturating_sub(start.len());
                start.extend(piece.into_iter().take(room));
            }
            Err(StreamError::Closed) => return Ok((bytes, start)),
            Err(error) => return Err(format!("{} after {bytes} bytes", broken(&error))),
        }
    }
}

fn header(response: &IncomingResponse, name: &str) -> Option<String> {
    let value = response.headers().get(name).into_iter().next()?;
    String::from_utf8(value).ok()
}

fn broken(error: &StreamError) -> String {
    match error {
        StreamError::Closed => "closed".to_owned(),
        StreamError::LastOperationFailed(error) => match http_error_code(error) {
            Some(code) => told(&code),
            None => error.to_debug_string(),
        },
    }
}

fn told(code: &ErrorCode) -> String {
    format!("{code:?}").replace("ErrorCode::", "")
}

fn entry(message: &Message, mut fields: Vec<Field>) -> Output {
    fields.push(field("id", message.id.as_str()));
    Output::Append(Entry { stream: "out".to_owned(), fields, delay_ms: None })
}

fn field(name: &str, value: impl Into<Vec<u8>>) -> Field {
    Field { name: name.to_owned(), value: value.into() }
}
