//! A file of the hub into the cache. Nothing a server says is taken as a path, and nothing is called a file of the cache
//! before its length and its hash are what the hub announced.

use std::time::Duration;

use serde::Deserialize;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::http::{HeaderMap, Uri};

use super::cache::Folder;
use super::client::{Client, Failure, header};
use super::progress::Progress;
use crate::fs::{Partial, hex};
use crate::term;

/// Bytes of the description of a repository.
const MAX_DESCRIPTION: usize = 16 << 20;
/// Connections that break one after another, each having brought something.
const TRIES: u32 = 5;
/// The pause before the second of them; each one is longer than the last by it.
const PAUSE: Duration = Duration::from_millis(500);

type Outcome<T> = std::result::Result<T, Failure>;

/// What a repository is at a revision.
#[derive(Debug, Deserialize)]
pub struct Description {
    /// Its commit.
    pub sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Description {
    /// That of `path` in the hub's interface.
    pub fn fetch(client: &Client, path: &str) -> Outcome<Description> {
        let (_, body) = client.get(&client.url(path)?, 0)?;
        let read: Description = serde_json::from_slice(&body.all(MAX_DESCRIPTION)?)
            .map_err(|_| Failure::Refused("its description of the repository is not what a hub writes".into()))?;
        match is_commit(&read.sha) {
            true => Ok(read),
            false => Err(Failure::Refused("it names a commit that is not 40 hexadecimal digits".into())),
        }
    }

    /// The names of its files.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.siblings.iter().map(|s| s.rfilename.as_str())
    }
}

/// Whether `text` is a commit as the hub writes it.
pub fn is_commit(text: &str) -> bool {
    hexadecimal(text, 40)
}

fn hexadecimal(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// What the hub announces of a file.
#[derive(Debug, PartialEq, Eq)]
struct Announced {
    commit: String,
    /// SHA-256 of the content (64 digits), or the SHA-1 of its Git blob (40): the name that it gets in the cache.
    hash: String,
    length: u64,
}

impl Announced {
    fn of(headers: &HeaderMap) -> Outcome<Announced> {
        let refused = |why: &str| Failure::Refused(why.to_string());
        let commit =
            header(headers, "x-repo-commit").ok_or_else(|| refused("it does not say which commit the file is of"))?;
        if !is_commit(&commit) {
            return Err(refused("it names a commit that is not 40 hexadecimal digits"));
        }
        let tag = header(headers, "x-linked-etag").or_else(|| header(headers, "etag"));
        let tag = tag.ok_or_else(|| refused("it does not give the file's hash (ETag)"))?;
        let hash = tag.strip_prefix("W/").unwrap_or(&tag).trim_matches('"').to_string();
        if !hexadecimal(&hash, 64) && !hexadecimal(&hash, 40) {
            return Err(refused("its ETag is not a hash, so that what comes cannot be checked"));
        }
        let length = header(headers, "x-linked-size").or_else(|| header(headers, "content-length"));
        let length = length.and_then(|length| length.trim().parse().ok());
        Ok(Announced { commit, hash, length: length.ok_or_else(|| refused("it does not say how long the file is"))? })
    }
}

/// The hash of a growing file, of the kind that was announced.
enum Check {
    Sha256(Sha256),
    Git(Sha1),
}

impl Check {
    fn new(announced: &Announced) -> Check {
        match announced.hash.len() {
            64 => Check::Sha256(Sha256::new()),
            _ => {
                let mut hash = Sha1::new();
                hash.update(format!("blob {}\0", announced.length));
                Check::Git(hash)
            }
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Check::Sha256(hash) => hash.update(bytes),
            Check::Git(hash) => hash.update(bytes),
        }
    }

    fn hash(self) -> String {
        match self {
            Check::Sha256(hash) => hex(&hash.finalize()),
            Check::Git(hash) => hex(&hash.finalize()),
        }
    }
}

/// Brings the file `name` at `url` into the cache, and says of which commit it is; `commit` is the one it has to be of.
pub fn file(client: &Client, folder: &Folder, url: &Uri, name: &str, commit: Option<&str>) -> Outcome<String> {
    let announced = Announced::of(&client.head(url)?.file)?;
    if let Some(commit) = commit.filter(|commit| **commit != announced.commit) {
        let other = format!("it answers with commit {} where {commit} was asked for", announced.commit);
        return Err(Failure::Refused(other));
    }
    if folder.file(&announced.commit, name).exists() {
        return Ok(announced.commit);
    }
    folder.prepare()?;
    let lock = folder.lock(&announced.hash)?;
    // Another process may have brought it meanwhile.
    if !folder.blob(&announced.hash).is_file() {
        fetch(client, folder, url, name, &announced)?;
    }
    folder.link(&announced.commit, name, &announced.hash)?;
    drop(lock);
    Ok(announced.commit)
}

/// The content into its blob, over as many connections as it takes.
fn fetch(client: &Client, folder: &Folder, url: &Uri, name: &str, announced: &Announced) -> Outcome<()> {
    let mut part = Partial::open(&folder.incomplete(&announced.hash))?;
    if part.length() > announced.length {
        part.restart()?;
    }
    let mut progress = Progress::new(name, announced.length, part.length());
    let mut furthest = part.length();
    for n in 1.. {
        let broken = match transfer(client, url, announced, &mut part, &mut progress) {
            Ok(()) => break,
            Err(Failure::Broken(why)) => why,
            Err(other) => return Err(other),
        };
        if part.length() <= furthest || n == TRIES {
            let (here, all) = (part.length(), announced.length);
            return Err(Failure::Broken(format!("{broken}, after {here} of {all} bytes of {name}, which are kept")));
        }
        furthest = part.length();
        term::note(&format!("{name}: {broken}; going on at byte {furthest} of {}", announced.length));
        std::thread::sleep(PAUSE * n);
    }
    let mut check = Check::new(announced);
    part.read_back(|piece| check.update(piece))?;
    let hash = check.hash();
    if hash != announced.hash {
        part.discard()?;
        return Err(Failure::Refused(format!("{name} came with hash {hash}, and {} was announced", announced.hash)));
    }
    Ok(part.finish(&folder.blob(&announced.hash))?)
}

/// What is missing of `part`, over one connection.
fn transfer(
    client: &Client,
    url: &Uri,
    announced: &Announced,
    part: &mut Partial,
    progress: &mut Progress,
) -> Outcome<()> {
    if part.length() == announced.length && announced.length > 0 {
        return Ok(());
    }
    let (head, mut body) = match client.get(url, part.length()) {
        // What is there is of no use to the server: from the start, once.
        Err(Failure::Status(status)) if status.code == 416 && part.length() > 0 => {
            part.restart()?;
            client.get(url, 0)?
        }
        answer => answer?,
    };
    let rest = announced.length - part.length();
    let said = header(&head.headers, "content-length").and_then(|length| length.trim().parse::<u64>().ok());
    if head.code == 206 {
        let range = header(&head.headers, "content-range").unwrap_or_default();
        let wanted = format!("bytes {}-", part.length());
        if !range.starts_with(&wanted) || !range.ends_with(&format!("/{}", announced.length)) {
            return Err(Failure::Refused(format!("it sends `{range}` where `{wanted}` was asked for")));
        }
        if said.is_some_and(|said| said > rest) {
            return Err(longer(announced));
        }
    } else {
        if said.is_some_and(|said| said != announced.length) {
            let said = said.unwrap_or_default();
            return Err(Failure::Refused(format!("it sends {said} bytes where {} were announced", announced.length)));
        }
    }
    // A server that does not know ranges sends all of it again; what is there is kept, since this connection may break too.
    let mut known = if head.code == 206 { 0 } else { part.length() };
    loop {
        let mut piece = body.next()?;
        if piece.is_empty() {
            break;
        }
        let skipped = known.min(piece.len() as u64);
        known -= skipped;
        piece.drain(..skipped as usize);
        if part.length() + piece.len() as u64 > announced.length {
            // What came of it so far is not the file either.
            part.restart()?;
            return Err(longer(announced));
        }
        part.write(&piece)?;
        progress.at(part.length());
    }
    match part.length() == announced.length {
        true => Ok(()),
        false => Err(Failure::Broken("the connection ended too early".into())),
    }
}

fn longer(announced: &Announced) -> Failure {
    Failure::Refused(format!("it sends more than the {} bytes that were announced", announced.length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_hashes_and_commits_become_names_in_the_cache() {
        let (commit, sha1, sha256) = ("c".repeat(40), "a".repeat(40), "b".repeat(64));
        let of = |commit: &str, tag: &str| {
            Announced::of(&headers(&[("x-repo-commit", commit), ("etag", tag), ("content-length", "5")]))
        };
        for tag in [format!("\"{sha256}\""), sha256.clone(), format!("W/\"{sha256}\"")] {
            assert_eq!(of(&commit, &tag).unwrap().hash, sha256);
        }
        assert_eq!(of(&commit, &format!("\"{sha1}\"")).unwrap().hash, sha1);
        let long = format!("\"{sha256}0\"");
        for tag in ["\"../../../../PWNED\"", "../x", "\"\"", "\"abc\"", &long, &sha256.to_uppercase()] {
            assert!(matches!(of(&commit, tag), Err(Failure::Refused(_))), "{tag}");
        }
        for commit in ["../../..", "", "main", &commit[1..], &commit.to_uppercase()] {
            assert!(matches!(of(commit, &sha256), Err(Failure::Refused(_))), "{commit}");
        }
    }

    #[test]
    fn the_headers_about_the_linked_file_come_before_those_of_the_answer() {
        let (commit, hash) = ("c".repeat(40), "b".repeat(64));
        let tag = format!("\"{hash}\"");
        let mut all = headers(&[("x-repo-commit", &commit), ("etag", "\"other\""), ("content-length", "7")]);
        all.extend(headers(&[("x-linked-etag", &tag), ("x-linked-size", "9000000000")]));
        assert_eq!(Announced::of(&all).unwrap(), Announced { commit, hash, length: 9_000_000_000 });
    }

    #[test]
    fn a_small_file_is_checked_as_the_git_blob_that_it_is() {
        // `printf 'hello\n' | git hash-object --stdin`
        let announced =
            Announced { commit: String::new(), hash: "ce013625030ba8dba906f756967f9e9ca394464a".into(), length: 6 };
        let mut check = Check::new(&announced);
        check.update(b"hel");
        check.update(b"lo\n");
        assert_eq!(check.hash(), announced.hash);
    }
}
