//! Requests to the hub. Redirects are followed here, one by one: the secret is sent to the hub alone, an address that was
//! asked for over TLS is not left for one without, and what a file is called comes from the hub and not from where it is
//! stored.

use std::io::Read;
use std::time::Duration;

use ureq::http::{HeaderMap, Method, Request, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, BodyReader, Timeout};
use url::Url;

use super::settings::Settings;
use crate::error::{Error, Result};
use crate::fs;

/// Redirects of one request; the hub needs two.
const REDIRECTS: usize = 5;
/// Bytes of all headers of an answer.
const MAX_HEADERS: usize = 64 << 10;
/// Bytes of a file of certificates.
const MAX_CERTIFICATES: u64 = 16 << 20;
/// Bytes of a body that are handed over at a time.
const PIECE: usize = 256 << 10;

/// Why a request had no good end.
#[derive(Debug)]
pub enum Failure {
    /// The hub answered, and not with what was asked for.
    Status(Status),
    /// The connection failed; another try may not.
    Broken(String),
    /// The answer is not one to follow.
    Refused(String),
    /// An error of this side: a signal, a file.
    Ours(Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure::Ours(e)
    }
}

/// What an answer says of its refusal.
#[derive(Debug)]
pub struct Status {
    pub code: u16,
    /// The hub's word for it, such as `RevisionNotFound`.
    pub word: String,
    /// The hub's own explanation.
    pub message: String,
    /// Seconds to wait.
    pub wait: Option<u64>,
    /// Whether the hub itself said it, not a store that it led to.
    pub home: bool,
}

/// An answer without its body.
#[derive(Debug, Default)]
pub struct Head {
    pub code: u16,
    /// The headers of the last answer.
    pub headers: HeaderMap,
    /// The headers about a file, from the hub's own answers.
    pub file: HeaderMap,
}

/// The text of a header, without what a terminal could take for a command.
pub fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    let text: String = headers.get(name)?.to_str().ok()?.chars().filter(|c| !c.is_control()).take(300).collect();
    Some(text)
}

/// A connection to the hub.
#[derive(Debug, Clone)]
pub struct Client {
    agent: Agent,
    pub settings: Settings,
}

impl Client {
    /// A client with these settings.
    ///
    /// # Errors
    /// Certificates that cannot be read.
    pub fn new(settings: Settings) -> Result<Client> {
        let mut tls = TlsConfig::builder();
        if let Some(path) = &settings.certificates {
            let bytes = fs::read_limited(path, MAX_CERTIFICATES)?;
            let read = parse_pem(&bytes).filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            });
            let certificates: Vec<_> = read.collect();
            if certificates.is_empty() {
                return Err(Error::input(format!("{} holds no certificate", path.display()))
                    .hint("give SSL_CERT_FILE a file of certificates in PEM form, or unset it"));
            }
            tls = tls.root_certs(RootCerts::new_with_certs(&certificates));
        }
        let agent = Agent::config_builder()
            .tls_config(tls.build())
            .http_status_as_error(false)
            .max_redirects(0)
            .max_response_header_size(MAX_HEADERS)
            .user_agent(concat!("fewstep/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(Some(settings.answer))
            .timeout_connect(Some(settings.answer))
            .timeout_send_request(Some(settings.answer))
            .timeout_recv_response(Some(settings.answer))
            .timeout_per_read(Some(settings.piece))
            .timeout_per_write(Some(settings.piece))
            .build()
            .new_agent();
        Ok(Client { agent, settings })
    }

    /// The address of `path` on the hub.
    pub fn url(&self, path: &str) -> std::result::Result<Uri, Failure> {
        let url = format!("{}/{path}", self.settings.endpoint);
        url.parse().map_err(|_| Failure::Refused(format!("`{path}` makes no address")))
    }

    /// What the hub says of `url`, without its content; the answer may lead elsewhere, which is not followed.
    pub fn head(&self, url: &Uri) -> std::result::Result<Head, Failure> {
        Ok(self.send(Method::HEAD, url, 0)?.0)
    }

    /// The content at `url`, from byte `from` on.
    pub fn get(&self, url: &Uri, from: u64) -> std::result::Result<(Head, Pieces), Failure> {
        let (head, body) = self.send(Method::GET, url, from)?;
        Ok((head, Pieces::new(body, self.settings.piece)))
    }

    fn send(&self, method: Method, url: &Uri, from: u64) -> std::result::Result<(Head, Body), Failure> {
        let (mut url, mut file) = (url.clone(), HeaderMap::new());
        for _ in 0..=REDIRECTS {
            let home = self.settings.is_home(&url);
            let response = self.once(&method, &url, from, home)?;
            let (parts, body) = response.into_parts();
            let (code, headers) = (parts.status.as_u16(), parts.headers);
            if home {
                for name in ["etag", "content-length"] {
                    // Those of an answer that leads on are its own, and say nothing of the file.
                    file.remove(name);
                }
                file.extend(headers.clone());
            }
            let leads_on = [301, 302, 303, 307, 308].contains(&code);
            let elsewhere = match leads_on {
                true => Some(next(&url, header_in_full(&headers, "location").as_deref())?),
                false => None,
            };
            match elsewhere {
                Some(place) if method == Method::HEAD && !self.settings.is_home(&place) => {
                    file.remove("content-length");
                    return Ok((Head { code, headers, file }, body));
                }
                Some(place) => url = place,
                None if (200..300).contains(&code) => return Ok((Head { code, headers, file }, body)),
                None => {
                    let text = |name: &str| header(&headers, name).unwrap_or_default();
                    let wait = text("retry-after").trim().parse().ok();
                    let (word, message) = (text("x-error-code"), text("x-error-message"));
                    return Err(Failure::Status(Status { code, word, message, wait, home }));
                }
            }
        }
        Err(Failure::Refused(format!("it leads on more than {REDIRECTS} times")))
    }

    fn once(
        &self,
        method: &Method,
        url: &Uri,
        from: u64,
        home: bool,
    ) -> std::result::Result<ureq::http::Response<Body>, Failure> {
        let mut request = Request::builder().method(method.clone()).uri(url.clone());
        if let Some(secret) = self.settings.secret.as_ref().filter(|_| home) {
            request = request.header("authorization", secret.header());
        }
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        let request = request.body(()).map_err(|_| Failure::Refused("the request cannot be written".into()))?;
        self.agent.run(request).map_err(|e| self.broken(&e))
    }

    /// A failed request in words; the address is not in them, since it may hold a signature.
    fn broken(&self, e: &ureq::Error) -> Failure {
        match e {
            ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
                Failure::Broken(format!("no connection within {} s", self.settings.answer.as_secs()))
            }
            ureq::Error::Timeout(_) => {
                Failure::Broken(format!("no answer within {} s", self.settings.answer.as_secs()))
            }
            ureq::Error::HostNotFound => Failure::Broken("its host is not found".into()),
            ureq::Error::Io(e) => Failure::Broken(io_text(e, self.settings.piece)),
            ureq::Error::LargeResponseHeader(..) => {
                Failure::Refused(format!("its headers have more than {MAX_HEADERS} bytes"))
            }
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => Failure::Refused("its address cannot be used".into()),
            ureq::Error::Protocol(_) => Failure::Broken("its answer is not HTTP".into()),
            other => Failure::Broken(other.to_string().chars().filter(|c| !c.is_control()).take(300).collect()),
        }
    }
}

fn io_text(e: &std::io::Error, piece: Duration) -> String {
    match e.kind() {
        std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => {
            format!("nothing came for {} s", piece.as_secs())
        }
        _ => {
            let text = e.to_string();
            text.split(" (os error").next().unwrap_or_default().to_lowercase()
        }
    }
}

fn header_in_full(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_string)
}

/// Where an answer from `url` leads.
fn next(url: &Uri, location: Option<&str>) -> std::result::Result<Uri, Failure> {
    let refused = |why: &str| Failure::Refused(format!("it leads on {why}"));
    let location = location.ok_or_else(|| refused("without saying where"))?;
    let from = Url::parse(&url.to_string()).map_err(|_| refused("from what is not an address"))?;
    let place = from.join(location).map_err(|_| refused("to what is not an address"))?;
    if !["https", "http"].contains(&place.scheme()) {
        return Err(refused("to what is neither https nor http"));
    }
    if !place.username().is_empty() || place.password().is_some() {
        return Err(refused("to an address with a user name in it"));
    }
    if from.scheme() == "https" && place.scheme() != "https" {
        return Err(refused("from https to http, which anyone could have changed"));
    }
    place.as_str().parse().map_err(|_| refused("to what is not an address"))
}

/// The pieces of a body as they come.
pub struct Pieces {
    reader: BodyReader<'static>,
    patience: Duration,
}

impl Pieces {
    fn new(body: Body, patience: Duration) -> Pieces {
        Pieces { reader: body.into_reader(), patience }
    }

    /// The next piece, empty at the end of the body.
    ///
    /// # Errors
    /// The connection broke.
    pub fn next(&mut self) -> std::result::Result<Vec<u8>, Failure> {
        let mut piece = vec![0; PIECE];
        loop {
            match self.reader.read(&mut piece) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Failure::Broken(io_text(&e, self.patience))),
                Ok(n) => {
                    piece.truncate(n);
                    return Ok(piece);
                }
            }
        }
    }

    /// All of it, refused above `limit` bytes.
    pub fn all(mut self, limit: usize) -> std::result::Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        loop {
            let piece = self.next()?;
            if piece.is_empty() {
                return Ok(bytes);
            }
            if bytes.len() + piece.len() > limit {
                return Err(Failure::Refused(format!("its description has more than {limit} bytes")));
            }
            bytes.extend_from_slice(&piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_is_followed_only_where_nothing_is_given_away() {
        let of = |from: &str, to: &str| next(&from.parse().unwrap(), Some(to));
        let good = |from: &str, to: &str| of(from, to).unwrap().to_string();
        assert_eq!(good("https://a.example/x", "/api/y?z=1"), "https://a.example/api/y?z=1");
        assert_eq!(good("http://a.example:81/x", "/y"), "http://a.example:81/y");
        assert_eq!(good("https://a.example/x", "https://b.example/y"), "https://b.example/y");
        assert_eq!(good("https://a.example/x", "//b.example/y"), "https://b.example/y");
        assert_eq!(good("https://a.example/x/y", "../z"), "https://a.example/z");
        for (to, word) in [
            ("http://a.example/x", "from https to http"),
            ("ftp://a.example/x", "neither https nor http"),
            ("file:///etc/passwd", "neither https nor http"),
            ("https://a.example@b.example/x", "user name"),
            ("https://:secret@a.example/x", "user name"),
            ("https://", "not an address"),
            ("https://a.example:99999/", "not an address"),
        ] {
            match of("https://a.example/x", to) {
                Err(Failure::Refused(why)) => assert!(why.contains(word), "{to}: {why}"),
                other => panic!("{to}: {other:?}"),
            }
        }
        assert!(matches!(next(&"https://a.example".parse().unwrap(), None), Err(Failure::Refused(_))));
    }
}
