//! Downloads from a hub on the loopback interface: what they leave in the cache, what they say, and how they go on.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::binary::{Place, Ran};
use super::hub_server::{ARGS, COMMIT, FOLDER, Hub, Served, TRAIN, check, command, files, good, hub, recipe, rows};

#[test]
fn a_download_lies_in_the_cache_as_python_lays_it_and_is_found_there_without_a_hub() {
    for (revision, reference) in [
        ("main", TRAIN.to_string()),
        ("v1.0", "hf://datasets/tiny/texts@v1.0/data/train.jsonl".into()),
        ("refs/convert/parquet", "hf://datasets/tiny/texts@refs/convert/parquet/data/train.jsonl".into()),
        (COMMIT, format!("hf://datasets/tiny/texts@{COMMIT}/data/train.jsonl")),
    ] {
        for served in [Served::new(rows()), Served::git(rows())] {
            let (place, hub) = (Place::new(), good(&served));
            let ran = check(&place, &hub.url(), &reference, &[]).ok();
            assert!(ran.err.contains("downloading hf://datasets/tiny/texts"), "{}", ran.err);
            let mut want = vec![
                format!("{FOLDER}/blobs/{}", served.etag),
                format!("{FOLDER}/snapshots/{COMMIT}/data/train.jsonl"),
            ];
            if revision != COMMIT {
                want.insert(1, format!("{FOLDER}/refs/{revision}"));
                assert_eq!(std::fs::read_to_string(place.path(&want[1])).unwrap(), COMMIT);
            }
            assert_eq!(files(&place), want);
            if cfg!(unix) {
                let link = std::fs::read_link(place.path(want.last().unwrap())).unwrap();
                assert_eq!(link, Path::new("../../../blobs").join(&served.etag));
            }
            let asked = hub.asked();
            let path = format!("/datasets/tiny/texts/resolve/{}/data/train.jsonl", revision.replace('/', "%2F"));
            assert!(asked.iter().all(|a| a.path == path), "{asked:?}");
            drop(hub);
            check(&place, "http://127.0.0.1:9", &reference, &[("HF_HUB_OFFLINE", "1")]).ok();
        }
    }
}

#[test]
fn the_cache_is_found_by_every_variable_that_the_python_library_knows() {
    let served = Served::new(rows());
    for (set, dir) in [
        (vec![("HF_HUB_CACHE", "at/a")], "at/a"),
        (vec![("HUGGINGFACE_HUB_CACHE", "at/b")], "at/b"),
        (vec![("HF_HUB_CACHE", "at/a"), ("HUGGINGFACE_HUB_CACHE", "at/b")], "at/a"),
        (vec![("XDG_CACHE_HOME", "at/x")], "at/x/huggingface/hub"),
        (vec![], "nobody/.cache/huggingface/hub"),
    ] {
        let (place, hub) = (Place::new(), good(&served));
        place.write("hub.toml", recipe(TRAIN));
        let run = |url: &str, more: &[(&str, &str)]| {
            let mut command = command(&place, url, &ARGS);
            command.env_remove("HF_HOME").envs(more.iter().copied());
            command.envs(set.iter().map(|(name, value)| (*name, place.path(value))));
            Ran::from(command.output().unwrap(), &ARGS)
        };
        run(&hub.url(), &[]).ok();
        let blob = place.path(dir).join("datasets--tiny--texts/blobs").join(&served.etag);
        assert!(blob.is_file(), "{set:?}: {:?}", files(&place));
        drop(hub);
        run("http://127.0.0.1:9", &[("HF_HUB_OFFLINE", "1")]).ok();
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_said_to_be_one_and_another_works() {
    let (place, hub) = (Place::new(), good(&Served::new(rows())));
    place.write("file", "not a directory");
    let file = place.path("file").display().to_string();
    check(&place, &hub.url(), TRAIN, &[("HF_HUB_CACHE", &file)])
        .fails(4, &["cannot create", "hint: give HF_HUB_CACHE"]);
    let other = place.path("other").display().to_string();
    check(&place, &hub.url(), TRAIN, &[("HF_HUB_CACHE", &other)]).ok();
}

#[test]
fn without_leave_for_the_network_nothing_is_asked_and_the_variable_is_named() {
    let (place, hub) = (Place::new(), good(&Served::new(rows())));
    for (name, value) in [("HF_HUB_OFFLINE", "1"), ("HF_HUB_OFFLINE", "yes"), ("TRANSFORMERS_OFFLINE", "TRUE")] {
        let ran = check(&place, &hub.url(), TRAIN, &[(name, value)]);
        ran.fails(4, &[name, "Hugging Face cache", "home/hub", &format!("hint: unset {name}")]);
    }
    assert!(hub.asked().is_empty());
    // The hint works.
    check(&place, &hub.url(), TRAIN, &[]).ok();
}

#[test]
fn a_small_file_behind_a_relative_redirect_is_announced_by_its_last_answer() {
    let served = Served::git(rows());
    let (place, commit) = (Place::new(), COMMIT);
    let hub = hub(served, move |asked, out| {
        let first = asked.path.starts_with("/datasets");
        if first {
            let headers = [("location", "/api/resolve-cache/x"), ("etag", "\"other\""), ("x-repo-commit", commit)];
            out.head("307 Temporary Redirect", &headers);
        }
        first
    });
    check(&place, &hub.url(), TRAIN, &[]).ok();
}

#[test]
fn a_body_that_ends_early_is_never_a_file_of_the_cache_and_the_next_try_goes_on_behind_it() {
    let served = Served::new(rows());
    let (place, half, whole) = (Place::new(), served.body.len() / 2, served.clone());
    let broken = Hub::new(move |asked, out| {
        whole.announce(out, whole.body.len());
        if asked.method == "GET" && asked.header("range").is_none() {
            out.body(&whole.body[..half]);
        }
    });
    let kept = format!("{half} of {} bytes", served.body.len());
    check(&place, &broken.url(), TRAIN, &[]).fails(4, &[&kept, "which are kept", "hint: type the same command again"]);
    drop(broken);
    assert_eq!(files(&place), [format!("{FOLDER}/blobs/{}.incomplete", served.etag)]);
    let hub = good(&served);
    check(&place, &hub.url(), TRAIN, &[]).ok();
    let ranges: Vec<_> = hub.asked().iter().filter_map(|a| a.header("range").map(str::to_string)).collect();
    assert_eq!(ranges, [format!("bytes={half}-")]);
    assert!(!files(&place).iter().any(|name| name.ends_with(".incomplete")));
}

#[test]
fn a_connection_that_breaks_is_taken_up_again_where_it_broke() {
    let served = Served::new(rows());
    let (place, whole, tries) = (Place::new(), served.clone(), AtomicUsize::new(0));
    let hub = hub(served.clone(), move |asked, out| {
        let first = asked.method == "GET" && tries.fetch_add(1, Ordering::SeqCst) == 0;
        if first {
            whole.announce(out, whole.body.len());
            out.body(&whole.body[..1000]);
        }
        first
    });
    let ran = check(&place, &hub.url(), TRAIN, &[]).ok();
    assert!(ran.err.contains("going on at byte 1000"), "{}", ran.err);
    let ranges: Vec<_> = hub.asked().iter().filter_map(|a| a.header("range").map(str::to_string)).collect();
    assert_eq!(ranges, ["bytes=1000-"]);
}

#[test]
fn a_part_that_is_not_of_the_file_is_found_by_its_hash_and_thrown_away() {
    for part in ["another file's beginning", &"x".repeat(1 << 16)] {
        let served = Served::new(rows());
        let (place, hub) = (Place::new(), good(&served));
        place.write(&format!("{FOLDER}/blobs/{}.incomplete", served.etag), part);
        let long = part.len() > served.body.len();
        let ran = check(&place, &hub.url(), TRAIN, &[]);
        match long {
            true => drop(ran.ok()),
            false => drop(ran.fails(4, &["hash", &served.etag, "hint: type the same command again"])),
        }
        check(&place, &hub.url(), TRAIN, &[]).ok();
    }
}

#[test]
fn a_server_that_does_not_know_ranges_sends_all_of_it_again() {
    let served = Served::new(rows());
    let (place, whole) = (Place::new(), served.clone());
    let hub = Hub::new(move |asked, out| {
        whole.announce(out, whole.body.len());
        if asked.method == "GET" {
            out.body(&whole.body);
        }
    });
    place.write(&format!("{FOLDER}/blobs/{}.incomplete", served.etag), &served.body[..100]);
    check(&place, &hub.url(), TRAIN, &[]).ok();
}

#[test]
fn a_slow_download_says_how_far_it_is_and_a_quiet_one_says_nothing() {
    let served = Served::new(rows().repeat(300));
    assert!(served.body.len() > 1 << 20);
    let slow = |served: Served| {
        hub(served.clone(), move |asked, out| {
            let get = asked.method == "GET";
            if get {
                served.announce(out, served.body.len());
                for part in served.body.chunks(served.body.len() / 10 + 1) {
                    out.body(part);
                    std::thread::sleep(Duration::from_millis(350));
                }
            }
            get
        })
    };
    let (place, one) = (Place::new(), slow(served.clone()));
    let ran = check(&place, &one.url(), TRAIN, &[]).ok();
    let lines: Vec<&str> = ran.err.lines().filter(|l| l.contains("data/train.jsonl")).collect();
    assert!(lines.iter().any(|l| l.starts_with("downloading data/train.jsonl (1.")), "{}", ran.err);
    let middle = lines.iter().filter(|l| l.contains(" %)") && l.contains("/s") && l.contains("left")).count();
    assert!((2..=10).contains(&middle), "{}", ran.err);
    let (place, two) = (Place::new(), slow(served));
    place.write("hub.toml", recipe(TRAIN));
    let args = ["--quiet", "recipe", "check", "hub.toml"];
    let ran = Ran::from(command(&place, &two.url(), &args).output().unwrap(), &args).ok();
    assert!(!ran.err.contains("downloading"), "{}", ran.err);
}

#[test]
fn what_the_hub_refuses_is_explained_with_what_to_do() {
    type Case = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);
    let cases: [Case; 9] = [
        ("401 Unauthorized", &[], &["says 401", "private", "hint: check its name", "HF_TOKEN"]),
        ("403 Forbidden", &[("x-error-code", "GatedRepo")], &["says 403", "accept the terms at http://127"]),
        ("403 Forbidden", &[("x-error-message", "no such luck")], &["says 403", "no such luck", "HF_TOKEN"]),
        ("404 Not Found", &[("x-error-code", "RevisionNotFound")], &["says 404", "no such revision"]),
        ("404 Not Found", &[("x-error-code", "EntryNotFound")], &["says 404", "no such file"]),
        ("404 Not Found", &[], &["says 404", "check its name"]),
        ("429 Too Many Requests", &[("retry-after", "17")], &["says 429", "wait 17 s"]),
        ("500 Internal Server Error", &[], &["says 500", "a fault of its own", "hint:"]),
        ("503 Service Unavailable", &[("x-error-message", "down for an hour")], &["says 503", "down for an hour"]),
    ];
    for (status, headers, words) in cases {
        let (place, hub) = (Place::new(), Hub::new(move |_, out| out.head(status, headers)));
        let ran = check(&place, &hub.url(), TRAIN, &[]).fails(4, words);
        ran.fails(4, &["cannot download hf://datasets/tiny/texts@main/data/train.jsonl", "hint:"]);
        assert_eq!(files(&place), Vec::<String>::new());
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_a_download_at_once_and_the_part_is_taken_up_by_the_next_run() {
    let served = Served::new(rows());
    let (place, whole) = (Place::new(), served.clone());
    let stalling = hub(served.clone(), move |asked, out| {
        let get = asked.method == "GET";
        if get {
            whole.announce(out, whole.body.len());
            out.body(&whole.body[..1000]);
            out.wait(Duration::from_secs(25));
        }
        get
    });
    place.write("hub.toml", recipe(TRAIN));
    let args = ["run", "hub.toml"];
    let mut slow = command(&place, &stalling.url(), &args);
    slow.env("HF_HUB_DOWNLOAD_TIMEOUT", "25").stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = slow.spawn().unwrap();
    let part = place.path(&format!("{FOLDER}/blobs/{}.incomplete", served.etag));
    let start = Instant::now();
    while !std::fs::metadata(&part).is_ok_and(|m| m.len() == 1000) {
        assert!(start.elapsed() < Duration::from_secs(20), "the download does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let stopping = Instant::now();
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let ran = Ran::from(child.wait_with_output().unwrap(), &args);
    assert!(stopping.elapsed() < Duration::from_secs(3), "{:?}", stopping.elapsed());
    ran.fails(130, &["stopped by", "the same command"]);
    drop(stalling);
    let hub = good(&served);
    check(&place, &hub.url(), TRAIN, &[]).ok();
    assert!(hub.asked().iter().any(|asked| asked.header("range") == Some("bytes=1000-")));
}

#[test]
fn two_processes_that_want_the_same_file_download_it_once() {
    let served = Served::new(rows());
    let (place, whole) = (Place::new(), served.clone());
    let hub = hub(served, move |asked, out| {
        let get = asked.method == "GET";
        if get {
            whole.announce(out, whole.body.len());
            out.body(&whole.body[..100]);
            out.wait(Duration::from_millis(1500));
            out.body(&whole.body[100..]);
        }
        get
    });
    place.write("hub.toml", recipe(TRAIN));
    let start = || {
        let mut command = command(&place, &hub.url(), &ARGS);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let both = [start(), start()].map(|child| Ran::from(child.wait_with_output().unwrap(), &ARGS).ok());
    assert_eq!(hub.asked().iter().filter(|asked| asked.method == "GET").count(), 1, "{both:?}");
}
