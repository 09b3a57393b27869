//! `hf://`: files of the Hugging Face hub, through its ordinary cache.
//!
//! `hf://owner/name[@revision][/path]` is a model repository or a file in it, `hf://datasets/owner/name[@revision]/path` a
//! file of a data set; a revision is a branch, a tag, a commit, or `refs/convert/parquet`. What is in the cache is taken as
//! it is, without any network; what is not is downloaded into it, unless HF_HUB_OFFLINE forbids it. Nothing here runs unless
//! a recipe or an argument says `hf://`.

mod cache;
mod client;
mod download;
mod progress;
mod settings;

use std::path::{Path, PathBuf};

use cache::Folder;
use client::{Client, Failure, Status};
use download::Description;
use settings::Settings;

use crate::error::{Error, Kind, Result};
use crate::term;

const SCHEME: &str = "hf://";

/// A repository on the hub, or a file in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub kind: RepoKind,
    /// owner/name
    pub id: String,
    pub revision: String,
    /// Path in the repository; none: the repository.
    pub file: Option<String>,
}

/// What kind of repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepoKind {
    Model,
    Dataset,
}

/// What `text` names on the hub, or none where it is a path.
///
/// # Errors
/// Text that is neither (usage).
pub fn reference(text: &str) -> Result<Option<Reference>> {
    let Some(rest) = text.strip_prefix(SCHEME) else { return Ok(None) };
    let wrong = || {
        Error::usage(format!("`{text}` names nothing on the hub")).hint(
            "write `hf://owner/name[@revision]`, with `/path` behind it for a file, or `hf://datasets/owner/name/path`",
        )
    };
    let (kind, rest) = match rest.strip_prefix("datasets/") {
        Some(rest) => (RepoKind::Dataset, rest),
        None => (RepoKind::Model, rest),
    };
    let (owner, rest) = rest.split_once('/').ok_or_else(wrong)?;
    let end = rest.find(['/', '@']).unwrap_or(rest.len());
    let (name, mut rest) = rest.split_at(end);
    let mut revision = "main".to_string();
    if let Some(after) = rest.strip_prefix('@') {
        let after = after.replace("%2F", "/");
        // The hub's own references have slashes in them.
        let words = if after.starts_with("refs/") { 3 } else { 1 };
        let end = after.match_indices('/').nth(words - 1).map_or(after.len(), |(at, _)| at);
        revision = after[..end].to_string();
        let tail = after.len() - end;
        rest = &rest[rest.len() - tail..];
    }
    let file = rest.strip_prefix('/').map(str::to_string);
    let parts = revision.split('/').chain(file.iter().flat_map(|f| f.split('/')));
    if ![owner, name].into_iter().chain(parts).all(plain) || revision.split('/').count() == 2 {
        return Err(wrong());
    }
    Ok(Some(Reference { kind, id: format!("{owner}/{name}"), revision, file }))
}

/// Whether a part of a reference can lead nowhere else.
fn plain(part: &str) -> bool {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_.=+ ".contains(c);
    !part.is_empty() && part.len() <= 200 && part.chars().all(safe) && !part.starts_with('.')
}

/// The file that `path` means: itself below `base`, or under `hf://` the file in the cache, downloaded where it is not
/// there yet.
///
/// # Errors
/// A malformed reference, one of a whole repository, or a file that is not to be had.
pub fn file(base: &Path, path: &Path) -> Result<PathBuf> {
    let text = path.to_string_lossy();
    let Some(reference) = reference(&text)? else { return Ok(base.join(path)) };
    let Some(name) = &reference.file else {
        return Err(Error::usage(format!("`{text}` names a repository, and a file is needed"))
            .hint(format!("write the file's path behind it, such as `{text}/data/train.parquet`")));
    };
    match reference.cached(name) {
        Some(path) => Ok(path),
        None => reference.download(name),
    }
}

/// The commit that a snapshot in the cache is of; none where `dir` is not one.
pub fn commit_of(dir: &Path) -> Option<&str> {
    let inside = dir.parent().and_then(Path::file_name).is_some_and(|name| name == "snapshots");
    dir.file_name()?.to_str().filter(|commit| inside && download::is_commit(commit))
}

impl Reference {
    fn kind_name(&self) -> &'static str {
        match self.kind {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
        }
    }

    fn folder(&self) -> Folder {
        Folder::new(&settings::cache(&settings::process), self.kind_name(), &self.id)
    }

    /// The file called `name`, if it is in the cache.
    pub fn cached(&self, name: &str) -> Option<PathBuf> {
        self.folder().cached(&self.revision, name)
    }

    /// Downloads the file `name` into the cache.
    ///
    /// # Errors
    /// A file that cannot be downloaded (I/O), and that is not in the cache either.
    fn download(&self, name: &str) -> Result<PathBuf> {
        let (client, folder) = (self.client()?, self.folder());
        let get = || -> std::result::Result<PathBuf, Failure> {
            let url = client.url(&self.address(&self.revision, name))?;
            // A commit that is asked for by its name is the one that has to come.
            let exact = Some(self.revision.as_str()).filter(|revision| download::is_commit(revision));
            let commit = download::file(&client, &folder, &url, name, exact)?;
            folder.remember(&self.revision, &commit)?;
            Ok(folder.file(&commit, name))
        };
        get().map_err(|failure| self.failed(&client, failure))
    }

    /// Downloads the files of the repository that `place` puts in an order (none: not wanted), all of one commit; the
    /// directory they lie in. Only plain names at the top of the repository are asked for. What tells a reader that the
    /// snapshot is there belongs last: a download that was stopped is then not taken for a whole one.
    ///
    /// # Errors
    /// A hub that cannot be reached or refuses, a repository without such files, a refused write (I/O); settings that are wrong
    /// (usage); a signal.
    pub fn snapshot(&self, place: impl Fn(&str) -> Option<usize>) -> Result<PathBuf> {
        let (client, folder) = (self.client()?, self.folder());
        let get = || -> std::result::Result<PathBuf, Failure> {
            let path = format!("api/{}/{}/revision/{}", self.kind_name(), self.id, encoded(&self.revision, false));
            let description = Description::fetch(&client, &path)?;
            let commit = description.sha.as_str();
            if download::is_commit(&self.revision) && commit != self.revision {
                return Err(Failure::Refused(format!("it answers with commit {commit}")));
            }
            let mut names: Vec<(usize, &str)> =
                description.files().filter(|name| plain(name)).filter_map(|name| Some((place(name)?, name))).collect();
            names.sort_unstable();
            if names.is_empty() {
                return Err(Failure::Refused("it has none of the files that are needed".into()));
            }
            for (_, name) in names {
                if !folder.file(commit, name).exists() {
                    let url = client.url(&self.address(commit, name))?;
                    download::file(&client, &folder, &url, name, Some(commit))?;
                }
            }
            folder.remember(&self.revision, commit)?;
            Ok(folder.snapshot(commit))
        };
        get().map_err(|failure| self.failed(&client, failure))
    }

    /// Where the file `name` is on the hub.
    fn address(&self, revision: &str, name: &str) -> String {
        let kind = if self.kind == RepoKind::Dataset { "datasets/" } else { "" };
        format!("{kind}{}/resolve/{}/{}", self.id, encoded(revision, false), encoded(name, true))
    }

    /// A connection to the hub, of which a line says that it is used.
    ///
    /// # Errors
    /// A network that is forbidden (I/O), or settings that are wrong (usage).
    fn client(&self) -> Result<Client> {
        if let Some(variable) = settings::offline(&settings::process) {
            return Err(self
                .absent()
                .cause(format!("{variable} forbids the network"))
                .hint(format!("unset {variable} to download it, or give a path to a copy on this machine")));
        }
        let client = Client::new(Settings::of(&settings::process)?)?;
        term::note(&format!("downloading {self} from {}", client.settings.endpoint));
        Ok(client)
    }

    fn absent(&self) -> Error {
        let cache = settings::cache(&settings::process);
        Error::new(Kind::Io, format!("cannot download {self}"))
            .cause(format!("it is not in the Hugging Face cache, {}", cache.display()))
    }

    /// The error of a download that failed.
    fn failed(&self, client: &Client, failure: Failure) -> Error {
        let hub = &client.settings.endpoint;
        let again = "type the same command again where the hub can be reached: it goes on where it was";
        match failure {
            Failure::Ours(error) if error.kind == Kind::Io && error.hint.is_none() => {
                error.hint("give HF_HUB_CACHE a directory that can be written, with room for the files")
            }
            Failure::Ours(error) => error,
            Failure::Broken(why) if why.contains("certificate") => {
                self.absent().cause(format!("{hub}: {why}")).hint(
                    "where a proxy signs with certificates of its own, give SSL_CERT_FILE the file that holds them",
                )
            }
            Failure::Broken(why) => self.absent().cause(format!("{hub}: {why}")).hint(format!(
                "{again}; HF_HUB_DOWNLOAD_TIMEOUT=60 waits longer, and a path to a copy on this machine needs no hub"
            )),
            Failure::Refused(why) => self.absent().cause(format!("the answer of {hub} is not to be trusted: {why}")).hint(
                "type the same command again; if it stays so, look at HF_ENDPOINT and at the proxy that the network has",
            ),
            Failure::Status(status) => {
                let (why, hint) = self.explain(client, &status);
                let mut error = self.absent().cause(format!("{hub} says {}: {why}", status.code));
                if !status.message.is_empty() {
                    error = error.cause(format!("its words: {}", status.message));
                }
                error.hint(hint)
            }
        }
    }

    /// What the hub means by a refusal, and what to do.
    fn explain(&self, client: &Client, status: &Status) -> (&'static str, String) {
        let again = "type the same command again later: it goes on where it was".to_string();
        let known = client.settings.secret.is_some();
        let page = format!(
            "{}/{}{}",
            client.settings.endpoint,
            if self.kind == RepoKind::Dataset { "datasets/" } else { "" },
            self.id
        );
        let token = match known {
            true => "give HF_TOKEN a token that may read it",
            false => "give HF_TOKEN a token that may read it, since none is set",
        };
        match (status.code, status.word.as_str()) {
            (_, "RevisionNotFound") => {
                ("it has no such revision", format!("take one of {page}/tree/main, or leave `@{}` out", self.revision))
            }
            (_, "EntryNotFound") => ("it has no such file", format!("take a file of {page}/tree/{}", self.revision)),
            (_, "GatedRepo") => {
                ("its owner lets in those who accept the terms", format!("accept the terms at {page}, then {token}"))
            }
            (401 | 403, _) if !status.home => ("the store of the file refused its address", again),
            (401, _) => ("it does not exist, or it is private", format!("check its name; if it is private, {token}")),
            (403, _) => {
                let why = if known { "the token may not read it" } else { "it is not for everyone" };
                (why, format!("look at {page}, then {token}"))
            }
            (404, _) => ("there is no such repository, revision or file", format!("check its name at {page}")),
            (429, _) => match status.wait {
                Some(seconds) => ("too many requests", format!("wait {seconds} s, then type the same command again")),
                None => {
                    ("too many requests", format!("wait some minutes, then type the same command again; or {token}"))
                }
            },
            (500.., _) => ("the hub has a fault of its own", again),
            _ => ("it does not give the file", again),
        }
    }
}

/// `text` as a part of an address; `path`: slashes stay.
fn encoded(text: &str, path: bool) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b) || (path && b == b'/');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.kind == RepoKind::Dataset { "datasets/" } else { "" };
        write!(f, "{SCHEME}{kind}{}@{}", self.id, self.revision)?;
        self.file.as_ref().map_or(Ok(()), |file| write!(f, "/{file}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_has_an_owner_a_name_and_perhaps_a_revision_and_a_file_and_a_path_is_none() {
        let good = |text: &str| reference(text).unwrap();
        let of = |kind, id: &str, revision: &str, file: Option<&str>| {
            let (id, revision, file) = (id.to_string(), revision.to_string(), file.map(str::to_string));
            Some(Reference { kind, id, revision, file })
        };
        let model = |id, revision, file| of(RepoKind::Model, id, revision, file);
        let data = |id, revision, file| of(RepoKind::Dataset, id, revision, Some(file));
        assert_eq!(good("hf://kuleshov-group/mdlm-owt"), model("kuleshov-group/mdlm-owt", "main", None));
        assert_eq!(good("hf://a/b.c@v1.0"), model("a/b.c", "v1.0", None));
        assert_eq!(good("hf://a/b/tokenizer.json"), model("a/b", "main", Some("tokenizer.json")));
        assert_eq!(good("hf://datasets/a/b/data/train.jsonl"), data("a/b", "main", "data/train.jsonl"));
        assert_eq!(good("hf://datasets/a/b@v2/x.parquet"), data("a/b", "v2", "x.parquet"));
        for revision in ["refs/convert/parquet", "refs%2Fconvert%2Fparquet"] {
            let text = format!("hf://datasets/a/b@{revision}/default/train/0000.parquet");
            assert_eq!(good(&text), data("a/b", "refs/convert/parquet", "default/train/0000.parquet"));
        }
        assert_eq!(good("models/mdlm"), None);
        for bad in [
            "hf://",
            "hf://a",
            "hf://a/",
            "hf:///b",
            "hf://../b",
            "hf://a/b@",
            "hf://a/b@../x",
            "hf://a/b@refs/x",
            "hf://a/b/../../x",
            "hf://a/b/",
            "hf://a/b//c",
            "hf://a/b\\c",
            "hf://datasets/a",
        ] {
            assert!(reference(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_holds_no_character_with_a_meaning() {
        assert_eq!(encoded("refs/convert/parquet", false), "refs%2Fconvert%2Fparquet");
        assert_eq!(encoded("data/a b+c=d.txt", true), "data/a%20b%2Bc%3Dd.txt");
    }

    #[test]
    fn a_snapshot_is_known_by_its_place_and_its_commit() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let dir = PathBuf::from("hub/models--a--b/snapshots").join(commit);
        assert_eq!(commit_of(&dir), Some(commit));
        assert_eq!(commit_of(&Path::new("models").join(commit)), None);
        assert_eq!(commit_of(Path::new("hub/models--a--b/snapshots/main")), None);
    }

    #[test]
    fn a_repository_where_a_file_is_needed_is_said_to_be_one() {
        let error = file(Path::new("."), Path::new("hf://datasets/a/b")).unwrap_err().to_string();
        assert!(error.contains("names a repository") && error.contains("hint:"), "{error}");
        assert_eq!(file(Path::new("x"), Path::new("a.txt")).unwrap(), Path::new("x/a.txt"));
    }
}
