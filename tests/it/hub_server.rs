//! A hub on the loopback interface that answers as a test says, well or badly, and commands that ask it. Nothing of it
//! outlives the test.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sha1::Digest;

use super::binary::{Place, Ran};

/// The longest that a connection is kept, whatever a test does.
const LONGEST: Duration = Duration::from_secs(30);

/// One request.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    headers: String,
}

impl Asked {
    /// A header's value; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.headers.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// Where a handler writes, with what it needs to be slow and still to end.
pub struct Out {
    stream: TcpStream,
    stop: Arc<AtomicBool>,
}

impl Out {
    /// Status line and headers; the connection closes behind the body.
    pub fn head(&mut self, status: &str, headers: &[(&str, &str)]) {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        self.body(format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\n\r\n").as_bytes());
    }

    /// Bytes of a body; whether the other side still takes them.
    pub fn body(&mut self, bytes: &[u8]) -> bool {
        !self.stopped() && self.stream.write_all(bytes).and_then(|()| self.stream.flush()).is_ok()
    }

    /// Waits, at most until the test is over or the other side has gone.
    pub fn wait(&mut self, time: Duration) {
        let end = Instant::now() + time.min(LONGEST);
        let mut byte = [0];
        let _ = self.stream.set_read_timeout(Some(Duration::from_millis(10)));
        while Instant::now() < end && !self.stopped() {
            match self.stream.read(&mut byte) {
                Ok(0) => return,
                Err(e) if ![ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&e.kind()) => return,
                _ => {}
            }
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// What a hub answers.
pub type Handler = dyn Fn(&Asked, &mut Out) + Send + Sync;

/// The server; it ends when dropped.
pub struct Hub {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hub {
    pub fn new(handler: impl Fn(&Asked, &mut Out) + Send + Sync + 'static) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (log, ending, handler): (_, _, Arc<Handler>) = (asked.clone(), stop.clone(), Arc::new(handler));
        let thread = std::thread::spawn(move || {
            let mut connections = Vec::new();
            while !ending.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let (log, stop, handler) = (log.clone(), ending.clone(), handler.clone());
                        connections.push(std::thread::spawn(move || {
                            stream.set_nonblocking(false).unwrap();
                            stream.set_write_timeout(Some(LONGEST)).unwrap();
                            let mut out = Out { stream, stop };
                            if let Some(asked) = read(&mut out) {
                                log.lock().unwrap().push(asked.clone());
                                handler(&asked, &mut out);
                            }
                        }));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
            connections.into_iter().for_each(|c| c.join().unwrap());
        });
        Hub { address, asked, stop, thread: Some(thread) }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok(), "a handler panicked");
        }
    }
}

fn read(out: &mut Out) -> Option<Asked> {
    let _ = out.stream.set_read_timeout(Some(Duration::from_secs(5)));
    let (mut text, mut byte) = (Vec::new(), [0]);
    while !text.ends_with(b"\r\n\r\n") {
        if text.len() > 1 << 16 || out.stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        text.push(byte[0]);
    }
    let text = String::from_utf8(text).ok()?;
    let (first, headers) = text.split_once("\r\n")?;
    let mut words = first.split(' ').map(str::to_string);
    Some(Asked { method: words.next()?, path: words.next()?, headers: headers.to_string() })
}

/// A commit as the hub writes it.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A file as the hub announces it.
#[derive(Debug, Clone)]
pub struct Served {
    pub commit: String,
    pub etag: String,
    pub body: Vec<u8>,
}

impl Served {
    /// A large file, named by its SHA-256.
    pub fn new(body: impl Into<Vec<u8>>) -> Served {
        let body = body.into();
        Served { commit: COMMIT.into(), etag: fewstep::fs::sha256_hex(&body), body }
    }

    /// A small file, named by the hash of its Git blob.
    pub fn git(body: impl Into<Vec<u8>>) -> Served {
        let body = body.into();
        let mut hash = sha1::Sha1::new();
        hash.update(format!("blob {}\0", body.len()));
        hash.update(&body);
        let etag = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        Served { commit: COMMIT.into(), etag, body }
    }

    /// What HEAD is answered with, and the first lines of GET.
    pub fn announce(&self, out: &mut Out, length: usize) {
        let (etag, length) = (format!("\"{}\"", self.etag), length.to_string());
        out.head("200 OK", &[("etag", &etag), ("x-repo-commit", &self.commit), ("content-length", &length)]);
    }

    /// The good answer.
    pub fn serve(&self, asked: &Asked, out: &mut Out) {
        let from =
            asked.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        match (asked.method.as_str(), from) {
            ("HEAD", _) => self.announce(out, self.body.len()),
            (_, None) => {
                self.announce(out, self.body.len());
                out.body(&self.body);
            }
            (_, Some(from)) => {
                let all = self.body.len();
                let range = format!("bytes {from}-{}/{all}", all - 1);
                let length = (all - from).to_string();
                out.head("206 Partial Content", &[("content-range", &range), ("content-length", &length)]);
                out.body(&self.body[from..]);
            }
        }
    }
}

pub const FOLDER: &str = "home/hub/datasets--tiny--texts";
pub const ARGS: [&str; 3] = ["recipe", "check", "hub.toml"];

pub fn rows() -> String {
    (0..200).map(|i| format!("{{\"text\": \"row {i} of some text\"}}\n")).collect()
}

/// A command that sees this hub and no other part of the environment.
pub fn command(place: &Place, url: &str, args: &[&str]) -> Command {
    let mut command = place.heeding(args);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("HF_") || name.starts_with("HUGGING") || name.to_lowercase().ends_with("_proxy") {
            command.env_remove(name);
        }
    }
    command.env_remove("XDG_CACHE_HOME").env_remove("TRANSFORMERS_OFFLINE").env("NO_PROXY", "*");
    command.env("HOME", place.path("nobody")).env("HF_HOME", place.path("home")).env("HF_ENDPOINT", url);
    command.env("HF_HUB_ETAG_TIMEOUT", "5").env("HF_HUB_DOWNLOAD_TIMEOUT", "5");
    command
}

/// A check of a recipe whose text is `reference` on the hub.
pub fn check(place: &Place, url: &str, reference: &str, env: &[(&str, &str)]) -> Ran {
    place.write("hub.toml", recipe(reference));
    let mut command = command(place, url, &ARGS);
    command.envs(env.iter().copied());
    Ran::from(command.output().unwrap(), &ARGS)
}

pub fn recipe(reference: &str) -> String {
    format!(
        r#"
name = "hub"
[data.text]
path = "{reference}"
tokenizer = "bytes"
length = 16
[model.ar]
order = "left_to_right"
objective.ar_nll = {{}}
network = {{ dim = 16, layers = 1, heads = 2, visibility = "causal", shift = true }}
train = {{ steps = 2, batch = 2, lr = 1e-3 }}
[eval]
samples = 4
batch = 4
steps = [2]
judge = "ar"
"#
    )
}

pub const TRAIN: &str = "hf://datasets/tiny/texts/data/train.jsonl";

/// All that is in the place but for the recipe and the empty directories.
pub fn files(place: &Place) -> Vec<String> {
    fn walk(dir: &Path, root: &Path, out: &mut Vec<String>) {
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for entry in entries.flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => walk(&entry.path(), root, out),
                false => out.push(entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_string()),
            }
        }
    }
    let mut out = Vec::new();
    walk(&place.path(""), &place.path(""), &mut out);
    out.retain(|name| !["hub.toml"].contains(&name.as_str()) && !name.contains("/.locks/"));
    out.sort();
    out
}

/// A hub whose only file is `served`; whatever else `more` wants to answer, it does.
pub fn hub(served: Served, more: impl Fn(&Asked, &mut Out) -> bool + Send + Sync + 'static) -> Hub {
    Hub::new(move |asked, out| {
        if !more(asked, out) {
            served.serve(asked, out);
        }
    })
}

pub fn good(served: &Served) -> Hub {
    hub(served.clone(), |_, _| false)
}
