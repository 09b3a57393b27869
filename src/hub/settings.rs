//! Where the hub and its cache are and who asks, from the environment, by the rules of Python's huggingface_hub.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ureq::http::Uri;
use ureq::http::uri::Scheme;
use url::Url;

use crate::error::{Error, Result};
use crate::fs;

const HUB: &str = "https://huggingface.co";
/// A longer token is none.
const MAX_TOKEN: u64 = 1 << 14;
/// Seconds to wait for an answer, and for the next piece of a body.
const PATIENCE: u64 = 10;

/// A source of environment variables: the process's own, or a test's.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The environment of this process.
pub fn process(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// What is sent as `Authorization`; its text is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The header's value.
    pub fn header(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The hub to ask, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Scheme, host and path, without credentials, without a slash at its end.
    pub endpoint: String,
    /// The same, taken apart.
    pub home: Uri,
    pub secret: Option<Secret>,
    /// How long an answer may take.
    pub answer: Duration,
    /// How long the next piece of a body may take.
    pub piece: Duration,
    /// The file of the certificates to trust; none: those of the browsers.
    pub certificates: Option<PathBuf>,
}

fn set(env: Environment, name: &str) -> Option<OsString> {
    env(name).filter(|value| !value.is_empty())
}

fn text(env: Environment, name: &str) -> Option<String> {
    set(env, name)?.into_string().ok()
}

/// A path with `~` at its start and `$NAME` or `${NAME}` in it put in, as the Python library does.
fn path(env: Environment, name: &str) -> Option<PathBuf> {
    let raw = set(env, name)?;
    let Some(raw) = raw.to_str() else { return Some(PathBuf::from(raw)) };
    let mut out = String::new();
    let mut rest = raw;
    if let Some(after) = raw.strip_prefix('~').filter(|after| after.is_empty() || after.starts_with('/')) {
        match home(env).to_str() {
            Some(home) => (out, rest) = (home.to_string(), after),
            None => return Some(PathBuf::from(raw)),
        }
    }
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, behind) = match after.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            Some(found) => found,
            None => {
                let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                after.split_at(after.find(|c| !word(c)).unwrap_or(after.len()))
            }
        };
        match text(env, name) {
            Some(value) => out.push_str(&value),
            // What is not set stays as it is written.
            None => out.push_str(&rest[at..rest.len() - behind.len()]),
        }
        rest = behind;
    }
    Some(PathBuf::from(out + rest))
}

fn home(env: Environment) -> PathBuf {
    set(env, "HOME").map(PathBuf::from).or_else(std::env::home_dir).unwrap_or_default()
}

fn hf_home(env: Environment) -> PathBuf {
    path(env, "HF_HOME")
        .unwrap_or_else(|| path(env, "XDG_CACHE_HOME").unwrap_or_else(|| home(env).join(".cache")).join("huggingface"))
}

/// The directory of the cache: HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub, or
/// ~/.cache/huggingface/hub, the first that is set.
pub fn cache(env: Environment) -> PathBuf {
    let named = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].iter().find_map(|name| path(env, name));
    named.unwrap_or_else(|| hf_home(env).join("hub"))
}

/// The variable that forbids the network, if one does.
pub fn offline(env: Environment) -> Option<&'static str> {
    let name = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().find(|name| set(env, name).is_some())?;
    yes(env, name).then_some(name)
}

fn yes(env: Environment, name: &str) -> bool {
    text(env, name).is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str()))
}

impl Settings {
    /// What `env` says.
    ///
    /// # Errors
    /// An HF_ENDPOINT that is not an address, a token that is not one (usage); the text of neither is shown.
    pub fn of(env: Environment) -> Result<Settings> {
        let (endpoint, home, credentials) = endpoint(&text(env, "HF_ENDPOINT").unwrap_or_else(|| HUB.to_string()))?;
        // Credentials in the address are for that very host, so they come before the hub's own token.
        let secret = match credentials {
            Some(pair) => Some(Secret(format!("Basic {}", BASE64_STANDARD.encode(pair)))),
            None => token(env)?.map(|token| Secret(format!("Bearer {token}"))),
        };
        let seconds = |name| text(env, name).and_then(|v| v.trim().parse::<u64>().ok()).filter(|s| *s > 0);
        Ok(Settings {
            endpoint,
            home,
            secret,
            answer: Duration::from_secs(seconds("HF_HUB_ETAG_TIMEOUT").unwrap_or(PATIENCE)),
            piece: Duration::from_secs(seconds("HF_HUB_DOWNLOAD_TIMEOUT").unwrap_or(PATIENCE)),
            certificates: ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"].iter().find_map(|name| path(env, name)),
        })
    }

    /// Whether `url` is at the hub itself, the only place that the secret may be sent to.
    pub fn is_home(&self, url: &Uri) -> bool {
        let place = |uri: &Uri| (uri.scheme().cloned(), uri.host().map(str::to_ascii_lowercase), port(uri));
        place(url) == place(&self.home)
    }
}

fn port(uri: &Uri) -> Option<u16> {
    uri.port_u16().or_else(|| match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => Some(443),
        Some(scheme) if *scheme == Scheme::HTTP => Some(80),
        _ => None,
    })
}

/// The endpoint without credentials and slashes at its end, the same taken apart, and `user:password` where there were some.
fn endpoint(written: &str) -> Result<(String, Uri, Option<String>)> {
    let wrong = |why: &str| {
        Error::usage("HF_ENDPOINT is not the address of a hub")
            .cause(why)
            .hint(format!("write an address such as {HUB}, or unset HF_ENDPOINT"))
    };
    let (scheme, rest) = written.trim().split_once("://").ok_or_else(|| wrong("it does not start with https://"))?;
    if !["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) {
        return Err(wrong("it starts with neither https:// nor http://"));
    }
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (credentials, host) = match authority.rsplit_once('@') {
        Some((credentials, host)) => (Some(credentials.to_string()), host),
        None => (None, authority),
    };
    if tail.contains(['?', '#']) {
        return Err(wrong("it has a `?` or a `#` in it"));
    }
    let bare = format!("{}://{host}{}", scheme.to_ascii_lowercase(), tail.trim_end_matches('/'));
    let read = Url::parse(&bare).map_err(|e| wrong(&e.to_string()))?;
    let bare = read.as_str().trim_end_matches('/').to_string();
    let home: Uri = bare.parse().map_err(|_| wrong("it cannot be read as an address"))?;
    Ok((bare, home, credentials))
}

/// The token of HF_TOKEN, or of the file of HF_TOKEN_PATH or HF_HOME/token.
fn token(env: Environment) -> Result<Option<String>> {
    if yes(env, "HF_HUB_DISABLE_IMPLICIT_TOKEN") {
        return Ok(None);
    }
    let file = path(env, "HF_TOKEN_PATH").unwrap_or_else(|| hf_home(env).join("token"));
    let named = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].into_iter().find(|name| set(env, name).is_some());
    let (place, token) = match named {
        Some(name) => (name.to_string(), text(env, name).unwrap_or_else(|| "\0".to_string())),
        None if file.is_file() => (file.display().to_string(), read_token(&file)?),
        None => return Ok(None),
    };
    let token = token.replace(['\r', '\n'], "").trim().to_string();
    if !token.chars().all(|c| c.is_ascii_graphic()) {
        return Err(Error::usage(format!("{place} does not hold a token"))
            .cause("it has characters that no token has")
            .hint("write the token alone, as the hub shows it"));
    }
    Ok(Some(token).filter(|token| !token.is_empty()))
}

fn read_token(file: &Path) -> Result<String> {
    let bytes = fs::read_limited(file, MAX_TOKEN)?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|_| "\0".to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v))
    }

    #[test]
    fn the_cache_is_where_the_python_library_looks_for_it() {
        let home = ("HOME", "/h");
        for (pairs, want) in [
            (vec![], "/h/.cache/huggingface/hub"),
            (vec![("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (vec![("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/f")], "/f/hub"),
            (vec![("HF_HOME", "~/f")], "/h/f/hub"),
            (vec![("HF_HOME", "$DISK/f"), ("DISK", "/d")], "/d/f/hub"),
            (vec![("HF_HOME", "${DISK}/f/$OTHER"), ("DISK", "/d")], "/d/f/$OTHER/hub"),
            (vec![("HF_HOME", "/f"), ("HUGGINGFACE_HUB_CACHE", "/g")], "/g"),
            (vec![("HF_HOME", "/f"), ("HUGGINGFACE_HUB_CACHE", "/g"), ("HF_HUB_CACHE", "/c")], "/c"),
            (vec![("HF_HUB_CACHE", "")], "/h/.cache/huggingface/hub"),
        ] {
            let pairs = [vec![home], pairs].concat();
            assert_eq!(cache(&env(&pairs)), Path::new(want), "{pairs:?}");
        }
    }

    #[test]
    fn the_network_is_forbidden_by_the_words_that_the_python_library_knows() {
        for (value, want) in [("1", true), ("on", true), ("Yes", true), ("TRUE", true), ("0", false), ("", false)] {
            assert_eq!(offline(&env(&[("HF_HUB_OFFLINE", value)])).is_some(), want, "{value}");
        }
        assert_eq!(offline(&env(&[("TRANSFORMERS_OFFLINE", "1")])), Some("TRANSFORMERS_OFFLINE"));
        assert_eq!(offline(&env(&[])), None);
    }

    #[test]
    fn a_token_comes_from_its_variable_then_from_its_file_and_is_never_printed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(at("token"), "of_home\n").unwrap();
        std::fs::write(at("other"), " of_path ").unwrap();
        let (home, other) = (at(""), at("other"));
        let header = |pairs: &[(&str, &str)]| {
            let settings = Settings::of(&env(pairs)).unwrap();
            assert!(!format!("{settings:?}").contains("of_"), "{settings:?}");
            settings.secret.map(|s| s.header().to_string())
        };
        let home = ("HF_HOME", home.as_str());
        assert_eq!(header(&[home]).as_deref(), Some("Bearer of_home"));
        assert_eq!(header(&[home, ("HF_TOKEN_PATH", &other)]).as_deref(), Some("Bearer of_path"));
        assert_eq!(header(&[home, ("HF_TOKEN", "of_name\n")]).as_deref(), Some("Bearer of_name"));
        assert_eq!(header(&[home, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert_eq!(header(&[("HF_HOME", "/nowhere")]), None);
        let error = Settings::of(&env(&[("HF_TOKEN", "of one\ttwo")])).unwrap_err().to_string();
        assert!(error.contains("HF_TOKEN") && error.contains("hint:") && !error.contains("two"), "{error}");
    }

    #[test]
    fn credentials_of_the_endpoint_are_sent_to_it_and_never_shown() {
        let of = |endpoint: &str| Settings::of(&env(&[("HF_ENDPOINT", endpoint), ("HF_TOKEN", "t")]));
        let settings = of("https://me:p4ss@mirror.example/hf//").unwrap();
        assert_eq!(settings.endpoint, "https://mirror.example/hf");
        assert_eq!(settings.secret.clone().unwrap().header(), "Basic bWU6cDRzcw==");
        assert!(!format!("{settings:?}").contains("p4ss"));
        for bad in
            ["me:p4ss@mirror.example", "ftp://me:p4ss@x", "https://me:p4ss@", "https://me:p4ss@x/?a", "https://p4ss a"]
        {
            let error = of(bad).unwrap_err().to_string();
            assert!(
                error.contains("HF_ENDPOINT") && error.contains("hint:") && !error.contains("p4ss"),
                "{bad}: {error}"
            );
        }
    }

    #[test]
    fn only_the_same_scheme_host_and_port_are_the_hub_itself() {
        let settings = Settings::of(&env(&[("HF_ENDPOINT", "https://Hub.example/x")])).unwrap();
        for (url, want) in [
            ("https://hub.example/y", true),
            ("https://hub.example:443/y", true),
            ("https://hub.example:8443/y", false),
            ("http://hub.example/y", false),
            ("https://cdn.hub.example/y", false),
            ("https://hub.example.evil.example/y", false),
            ("https://hub.example@evil.example/y", false),
        ] {
            assert_eq!(settings.is_home(&url.parse().unwrap()), want, "{url}");
        }
    }
}
