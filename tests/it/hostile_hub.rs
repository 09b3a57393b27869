//! Hubs that lie, lead away, or have no end: nothing of theirs reaches another place than the cache, no secret reaches
//! another host, and each ends in a message.

use std::time::{Duration, Instant};

use super::binary::{Place, Ran};
use super::hub_server::{COMMIT, Handler, Hub, Served, TRAIN, check, command, files, good, rows};

#[test]
fn nothing_a_server_says_is_taken_as_a_path() {
    let body = rows();
    let of = |commit: &str, etag: &str| Served { commit: commit.into(), etag: etag.into(), body: body.clone().into() };
    let hash = Served::new(body.clone()).etag;
    for (served, word) in [
        (of(COMMIT, "../../../../PWNED"), "ETag"),
        (of(COMMIT, "/tmp/PWNED"), "ETag"),
        (of(COMMIT, ""), "ETag"),
        (of(COMMIT, "PWNED.incomplete"), "ETag"),
        (of("../../..", &hash), "commit"),
        (of("", &hash), "commit"),
        (of("main/../../../x", &hash), "commit"),
        (of(&COMMIT.to_uppercase(), &hash), "commit"),
    ] {
        let (place, hub) = (Place::new(), good(&served));
        check(&place, &hub.url(), TRAIN, &[]).fails(4, &["not to be trusted", word, "hint:"]);
        assert_eq!(files(&place), Vec::<String>::new(), "{served:?}");
    }
}

#[test]
fn another_commit_than_the_one_that_was_asked_for_is_refused() {
    let (place, hub) = (Place::new(), good(&Served::new(rows())));
    let other = "f".repeat(40);
    let reference = format!("hf://datasets/tiny/texts@{other}/data/train.jsonl");
    check(&place, &hub.url(), &reference, &[]).fails(4, &["not to be trusted", COMMIT, &other]);
    assert_eq!(files(&place), Vec::<String>::new());
}

#[test]
fn a_token_is_sent_to_the_hub_and_never_to_where_it_leads() {
    let served = Served::new(rows());
    let store = good(&served);
    let place = Place::new();
    let elsewhere = format!("{}/blob?signature=s3cret", store.url());
    let (etag, length) = (format!("\"{}\"", served.etag), served.body.len().to_string());
    let hub = Hub::new(move |_, out| {
        out.head(
            "302 Found",
            &[
                ("location", &elsewhere),
                ("x-repo-commit", COMMIT),
                ("x-linked-etag", &etag),
                ("x-linked-size", &length),
                ("etag", "\"of the answer\""),
                ("content-length", "0"),
            ],
        );
    });
    let token = "hf_thetokenitself";
    place.write("home/token", format!("{token}\n"));
    place.write("elsewhere/token", "hf_another");
    let other = place.path("elsewhere/token").display().to_string();
    for (env, sent) in [
        (vec![], token),
        (vec![("HF_TOKEN_PATH", other.as_str())], "hf_another"),
        (vec![("HF_TOKEN", "hf_ofname"), ("HF_TOKEN_PATH", other.as_str())], "hf_ofname"),
    ] {
        let _ = std::fs::remove_dir_all(place.path("home/hub"));
        let ran = check(&place, &hub.url(), TRAIN, &env).ok();
        assert!(!ran.err.contains("hf_") && !ran.err.contains("s3cret"), "{}", ran.err);
        let want = format!("Bearer {sent}");
        let last = &hub.asked()[hub.asked().len() - 2..];
        assert!(last.iter().all(|asked| asked.header("authorization") == Some(&want)), "{last:?}");
    }
    let asked = store.asked();
    assert!(!asked.is_empty() && asked.iter().all(|asked| asked.method == "GET"), "{asked:?}");
    assert!(asked.iter().all(|asked| asked.header("authorization").is_none()), "{asked:?}");
}

#[test]
fn credentials_in_the_endpoint_are_sent_to_it_alone_and_never_printed() {
    let served = Served::new(rows());
    let (place, hub) = (Place::new(), good(&served));
    let url = hub.url().replace("://", "://someone:p4ssw0rd@");
    let ran = check(&place, &url, TRAIN, &[]).ok();
    assert!(!ran.err.contains("p4ssw0rd") && ran.err.contains(&hub.url()), "{}", ran.err);
    assert_eq!(hub.asked()[0].header("authorization"), Some("Basic c29tZW9uZTpwNHNzdzByZA=="));
    for (url, code) in [("http://someone:p4ssw0rd@127.0.0.1:9", 4), ("http://someone:p4ssw0rd@", 2), ("p4ssw0rd", 2)] {
        let ran = check(&Place::new(), url, TRAIN, &[]).fails(code, &["hint:"]);
        assert!(!ran.err.contains("p4ssw0rd"), "{}", ran.err);
    }
}

#[test]
fn a_redirect_that_goes_round_or_away_is_not_followed() {
    for (location, word) in [
        ("/round", "more than 5 times"),
        ("", "more than 5 times"),
        ("file:///etc/hostname", "neither https nor http"),
        ("ftp://127.0.0.1/x", "neither https nor http"),
        ("http://127.0.0.1:99999/", "not an address"),
        ("http://a:b@127.0.0.1/x", "user name"),
    ] {
        let (place, hub) = (Place::new(), Hub::new(move |_, out| out.head("302 Found", &[("location", location)])));
        check(&place, &hub.url(), TRAIN, &[]).fails(4, &["not to be trusted", word]);
        assert!(hub.asked().len() <= 6, "{:?}", hub.asked());
        assert_eq!(files(&place), Vec::<String>::new());
    }
}

#[test]
fn a_file_that_is_not_the_announced_one_is_refused_with_both_hashes() {
    for served in [Served::new(rows()), Served::git(rows())] {
        let mut wrong = served.clone();
        wrong.body[10] ^= 1;
        let place = Place::new();
        let hub = good(&wrong);
        let ran = check(&place, &hub.url(), TRAIN, &[]);
        ran.fails(4, &["not to be trusted", "came with hash", &served.etag, "hint:"]);
        assert_eq!(files(&place), Vec::<String>::new());
        drop(hub);
        check(&place, &good(&served).url(), TRAIN, &[]).ok();
    }
}

#[test]
fn a_body_without_an_end_is_cut_where_it_was_to_end() {
    let served = Served::new(rows());
    let (place, whole) = (Place::new(), served.clone());
    let hub = Hub::new(move |asked, out| {
        if asked.method == "HEAD" {
            return whole.announce(out, whole.body.len());
        }
        out.head("200 OK", &[("transfer-encoding", "chunked")]);
        while out.body(b"4\r\nabcd\r\n") {}
    });
    let start = Instant::now();
    check(&place, &hub.url(), TRAIN, &[]).fails(4, &["more than the", "bytes that were announced"]);
    assert!(start.elapsed() < Duration::from_secs(10));
    let left: u64 = files(&place).iter().map(|name| std::fs::metadata(place.path(name)).unwrap().len()).sum();
    assert_eq!(left, 0);
}

#[test]
fn a_length_that_changes_between_two_answers_is_refused() {
    let served = Served::new(rows());
    let (place, whole) = (Place::new(), served.clone());
    let hub = Hub::new(move |asked, out| whole.announce(out, if asked.method == "HEAD" { 100 } else { 1 << 40 }));
    check(&place, &hub.url(), TRAIN, &[]).fails(4, &["it sends 1099511627776 bytes where 100 were announced"]);
}

#[test]
fn a_server_that_says_nothing_is_given_up_after_the_time_that_the_environment_allows() {
    let short = [("HF_HUB_ETAG_TIMEOUT", "1"), ("HF_HUB_DOWNLOAD_TIMEOUT", "1")];
    let served = Served::new(rows());
    let silent: [(Box<Handler>, &str); 3] = [
        (Box::new(|_, out| out.wait(Duration::from_secs(20))), "no answer within 1 s"),
        (
            Box::new(|_, out| {
                out.body(b"HTTP/1.1 200 OK\r\nx-");
                out.wait(Duration::from_secs(20));
            }),
            "no answer within 1 s",
        ),
        (
            Box::new(move |asked, out| {
                served.announce(out, served.body.len());
                if asked.method == "GET" {
                    out.body(&served.body[..10]);
                    out.wait(Duration::from_secs(20));
                }
            }),
            "10 of",
        ),
    ];
    for (handler, word) in silent {
        let (place, hub, start) = (Place::new(), Hub::new(handler), Instant::now());
        let ran = check(&place, &hub.url(), TRAIN, &short).fails(4, &[word, "hint:", "HF_HUB_DOWNLOAD_TIMEOUT"]);
        assert!(ran.err.starts_with("downloading hf://"), "{}", ran.err);
        assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    }
}

#[test]
fn headers_and_descriptions_without_an_end_are_refused() {
    let place = Place::new();
    let headers = Hub::new(|_, out| {
        out.body(b"HTTP/1.1 200 OK\r\n");
        while out.body(format!("x-y: {}\r\n", "z".repeat(1000)).as_bytes()) {}
    });
    check(&place, &headers.url(), TRAIN, &[]).fails(4, &["headers"]);
    let description = Hub::new(|_, out| {
        out.head("200 OK", &[("content-type", "application/json")]);
        out.body(b"{\"siblings\": [");
        while out.body(&[b' '; 1 << 16]) {}
    });
    let args = ["inspect", "hf://tiny/model"];
    let ran = Ran::from(command(&place, &description.url(), &args).output().unwrap(), &args);
    ran.fails(4, &["description has more than"]);
}

/// A model with its tokenizer's file, described as `names` at `sha`.
fn model(sha: &'static str, names: &'static [&'static str], broken: Option<&'static str>) -> Hub {
    Hub::new(move |asked, out| {
        if asked.path.starts_with("/api/models/tiny/model/revision/") {
            let siblings: Vec<_> = names.iter().map(|name| serde_json::json!({ "rfilename": name })).collect();
            let body = serde_json::json!({ "sha": sha, "siblings": siblings, "tags": ["x"] }).to_string();
            out.head("200 OK", &[("content-length", &body.len().to_string())]);
            out.body(body.as_bytes());
            return;
        }
        let name = asked.path.rsplit('/').next().unwrap();
        let content = if name == "config.json" { "{}".to_string() } else { format!("the content of {name}") };
        let served = Served::git(content);
        match broken == Some(name) && asked.method == "GET" {
            true => served.announce(out, served.body.len()),
            false => served.serve(asked, out),
        }
    })
}

fn inspect(place: &Place, url: &str) -> Ran {
    let args = ["inspect", "hf://tiny/model"];
    Ran::from(command(place, url, &args).output().unwrap(), &args)
}

#[test]
fn the_files_of_a_model_are_of_one_commit_and_only_plain_names_are_asked_for() {
    let place = Place::new();
    let names =
        ["config.json", "../../../PWNED.json", "sub/x.json", ".hidden.json", "pytorch_model.bin", "tokenizer.json"];
    let names: &'static [&'static str] = Box::leak(Box::new(names));
    let hub = model(COMMIT, names, None);
    // There are no weights among them.
    inspect(&place, &hub.url()).fails(3, &["model.safetensors"]);
    let folder = "home/hub/models--tiny--model";
    let mut there = files(&place);
    there.retain(|name| !name.contains("/blobs/"));
    let snapshot = format!("{folder}/snapshots/{COMMIT}");
    assert_eq!(
        there,
        [format!("{folder}/refs/main"), format!("{snapshot}/config.json"), format!("{snapshot}/tokenizer.json")]
    );
    let asked = hub.asked();
    assert!(
        asked[1..].iter().all(|asked| asked.path.starts_with(&format!("/tiny/model/resolve/{COMMIT}/"))),
        "{asked:?}"
    );
    drop(hub);
    for sha in ["../../../x", "main", ""] {
        let (place, hub) = (Place::new(), model(sha, names, None));
        inspect(&place, &hub.url()).fails(4, &["not to be trusted", "commit"]);
        assert_eq!(files(&place), Vec::<String>::new());
    }
}

#[test]
fn a_snapshot_that_was_not_finished_is_not_taken_for_a_whole_one() {
    let place = Place::new();
    let names = &["config.json", "model.safetensors", "tokenizer.json"];
    let broken = model(COMMIT, names, Some("model.safetensors"));
    inspect(&place, &broken.url()).fails(4, &["model.safetensors", "which are kept"]);
    drop(broken);
    assert!(!files(&place).iter().any(|name| name.contains("/refs/")), "{:?}", files(&place));
    let hub = model(COMMIT, names, None);
    inspect(&place, &hub.url()).fails(3, &["model.safetensors"]);
    let weights = hub.asked().iter().filter(|a| a.path.ends_with("/model.safetensors")).count();
    let config = hub.asked().iter().filter(|a| a.path.ends_with("/config.json")).count();
    assert_eq!((weights, config), (2, 0), "{:?}", hub.asked());
}
