//! Tests of atomic writes, locks, limits and manifests; with the feature `faults`, of a fault at every single write.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_file_is_replaced_whole_and_no_temporary_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    write_atomic(&path, b"old").unwrap();
    write_atomic(&path, b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(names(dir.path()).len(), 1);
}

#[cfg(unix)]
#[test]
fn a_file_gets_the_mode_that_the_umask_gives() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    write_atomic(&dir.path().join("a"), b"x").unwrap();
    File::create(dir.path().join("b")).unwrap();
    let mode = |n| fs::metadata(dir.path().join(n)).unwrap().permissions().mode();
    assert_eq!(mode("a"), mode("b"));
}

#[test]
fn a_refused_write_names_the_file_and_the_bytes_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("taken")).unwrap();
    fs::write(dir.path().join("taken/x"), "x").unwrap();
    let e = write_atomic(&dir.path().join("taken"), b"12345").unwrap_err();
    assert_eq!(e.kind, Kind::Io);
    assert!(e.to_string().contains("taken") && e.to_string().contains("5 bytes are needed"), "{e}");
    assert_eq!(names(dir.path()), BTreeSet::from(["taken".to_string()]));
    assert_eq!(write_atomic(&dir.path().join("absent/x"), b"1").unwrap_err().kind, Kind::Io);
}

#[test]
fn a_directory_appears_only_when_its_builder_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let fail = commit_dir(dir.path(), "step-1", |tmp| {
        write_file(&tmp.join("x"), b"x")?;
        Err(Error::input("no"))
    });
    assert!(fail.is_err() && names(dir.path()).is_empty());
    let made = commit_dir(dir.path(), "step-1", |tmp| write_file(&tmp.join("x"), b"x")).unwrap();
    assert_eq!(fs::read(made.join("x")).unwrap(), b"x");
}

#[test]
fn a_damaged_directory_is_replaced_and_a_whole_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let build = |text: &'static str| {
        commit_dir(dir.path(), "s", |tmp| {
            write_file(&tmp.join("x"), text.as_bytes())?;
            write_manifest(tmp, serde_json::Value::Null).map(drop)
        })
    };
    let made = build("one").unwrap();
    assert_eq!(build("two").unwrap_err().kind, Kind::Usage);
    assert_eq!(fs::read(made.join("x")).unwrap(), b"one");
    fs::write(made.join("x"), "bad").unwrap();
    build("two").unwrap();
    assert_eq!(fs::read(made.join("x")).unwrap(), b"two");
}

#[cfg(target_os = "linux")]
#[test]
fn leftovers_of_dead_processes_are_removed_and_those_of_living_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    let us = format!("b.tmp-{}", std::process::id());
    for name in ["a.tmp-4294967295", &us, "c.tmp-1", "d.tmp-x", "keep.json"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    fs::create_dir_all(dir.path().join("e.tmp-4294967294/sub")).unwrap();
    assert_eq!(remove_stale_tmp(dir.path()).unwrap().len(), 3);
    assert_eq!(names(dir.path()), BTreeSet::from(["c.tmp-1", "d.tmp-x", "keep.json"].map(String::from)));
    assert!(remove_stale_tmp(&dir.path().join("absent")).unwrap().is_empty());
}

#[test]
fn of_two_locks_on_a_directory_the_second_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = RunLock::acquire(dir.path()).unwrap();
    let e = RunLock::acquire(dir.path()).unwrap_err();
    assert_eq!(e.kind, Kind::Usage);
    assert!(e.message.starts_with("another fewstep process is working in"), "{e}");
    drop(first);
    RunLock::acquire(dir.path()).unwrap();
}

#[test]
fn a_read_says_whether_the_file_is_missing_a_directory_or_too_long() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("text.txt"), "12345").unwrap();
    assert_eq!(read_limited(&dir.path().join("text.txt"), 5).unwrap(), b"12345");
    let long = read_limited(&dir.path().join("text.txt"), 4).unwrap_err();
    assert!(long.kind == Kind::Input && long.to_string().contains("it has 5 bytes, at most 4"), "{long}");
    let missing = read_limited(&dir.path().join("test.txt"), 4).unwrap_err();
    assert!(missing.kind == Kind::Input && missing.hint.as_deref().unwrap().contains("text.txt"), "{missing}");
    assert!(read_limited(dir.path(), 4).unwrap_err().message.contains("is a directory"));
}

#[cfg(unix)]
#[test]
fn a_device_and_a_pipe_without_a_writer_are_refused_as_what_they_are_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&pipe, &link).unwrap();
    for (path, kind) in [(Path::new("/dev/zero"), "it is a device"), (&pipe, "it is a pipe"), (&link, "it is a pipe")] {
        for e in [read_limited(path, 1000).unwrap_err(), open(path).unwrap_err(), sha256_file(path).unwrap_err()] {
            assert!(e.kind == Kind::Input && e.message.ends_with("is not a regular file"), "{e}");
            assert!(e.causes[0] == kind && e.hint.is_some(), "{e}");
        }
    }
}

#[test]
fn text_that_is_not_utf8_is_refused_with_its_offset() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    fs::write(&path, b"ab\xff").unwrap();
    let e = read_text(&path, 100).unwrap_err();
    assert!(e.kind == Kind::Input && e.causes == ["at byte 2"], "{e}");
    fs::write(&path, "ä").unwrap();
    assert_eq!(read_text(&path, 100).unwrap(), "ä");
}

#[test]
fn sha256_agrees_with_the_published_vector_and_with_itself_over_files() {
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(sha256_hex(b"abc"), abc);
    let dir = tempfile::tempdir().unwrap();
    let big = vec![7u8; (1 << 20) + 3];
    fs::write(dir.path().join("f"), &big).unwrap();
    assert_eq!(sha256_file(&dir.path().join("f")).unwrap(), sha256_hex(&big));
}

/// A directory with a manifest, and the paths of all its files.
fn checkpoint() -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    write_file(&dir.path().join("weights.bin"), &[3; 97]).unwrap();
    write_file(&dir.path().join("sub/empty"), b"").unwrap();
    write_manifest(dir.path(), serde_json::json!({ "step": 812, "best": 0.1 })).unwrap();
    let files = ["weights.bin", "sub/empty", MANIFEST].map(|n| dir.path().join(n));
    (dir, files.to_vec())
}

#[test]
fn a_manifest_returns_what_was_written_and_hidden_files_do_not_matter() {
    let (dir, _) = checkpoint();
    fs::write(dir.path().join(".lock"), "").unwrap();
    let manifest = verify_manifest(dir.path()).unwrap();
    assert_eq!(manifest.extra["step"], 812);
    assert_eq!(manifest.files.keys().collect::<Vec<_>>(), ["sub/empty", "weights.bin"]);
}

#[test]
fn a_missing_an_added_and_a_renamed_file_are_each_named() {
    for name in ["weights.bin", "sub/empty", MANIFEST] {
        let (dir, _) = checkpoint();
        fs::remove_file(dir.path().join(name)).unwrap();
        let e = verify_manifest(dir.path()).unwrap_err();
        assert!(e.kind == Kind::Input && e.to_string().contains(name), "{e}");
    }
    for name in ["model.safetensors", "origin.json", "sub/tokenizer.json"] {
        let (dir, _) = checkpoint();
        fs::write(dir.path().join(name), "").unwrap();
        let e = verify_manifest(dir.path()).unwrap_err();
        assert!(e.to_string().contains(&format!("{name} was added")), "{e}");
    }
}

#[test]
fn files_of_others_in_a_directory_with_a_manifest_do_not_matter() {
    let (dir, _) = checkpoint();
    for name in ["notes.txt", "Thumbs.db", ".DS_Store", "sub/desktop.ini", "plot.json"] {
        fs::write(dir.path().join(name), "mine").unwrap();
    }
    fs::create_dir(dir.path().join("pictures")).unwrap();
    verify_manifest(dir.path()).unwrap();
}

#[cfg(unix)]
#[test]
fn a_listed_file_that_cannot_be_read_is_named_as_damage() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, files) = checkpoint();
    fs::remove_file(&files[0]).unwrap();
    fs::create_dir(&files[0]).unwrap();
    let e = verify_manifest(dir.path()).unwrap_err();
    assert!(e.kind == Kind::Input && e.to_string().contains("weights.bin is not a regular file"), "{e}");
    let (dir, files) = checkpoint();
    fs::set_permissions(&files[0], fs::Permissions::from_mode(0o000)).unwrap();
    if File::open(&files[0]).is_ok() {
        println!("skipped: this user reads every file");
        return;
    }
    let e = verify_manifest(dir.path()).unwrap_err();
    assert!(e.kind == Kind::Input && e.to_string().contains("weights.bin cannot be read: permission denied"), "{e}");
}

#[test]
fn a_manifest_of_a_later_format_is_refused_as_such() {
    let (dir, files) = checkpoint();
    let text = fs::read_to_string(&files[2]).unwrap().replace("\"format\": 1", "\"format\": 2");
    let body = text.rsplit_once(",\n  \"sha256\": \"").unwrap().0.to_string();
    let sum = sha256_hex(body.as_bytes());
    fs::write(&files[2], format!("{body},\n  \"sha256\": \"{sum}\"\n}}\n")).unwrap();
    assert!(verify_manifest(dir.path()).unwrap_err().message.contains("another version"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn every_mutation_of_every_file_is_detected(file in 0usize..3, at in any::<prop::sample::Index>(), flip in 1u8.., how in 0..3) {
        let (dir, files) = checkpoint();
        let mut bytes = fs::read(&files[file]).unwrap();
        match how {
            0 if !bytes.is_empty() => { let i = at.index(bytes.len()); bytes[i] ^= flip; }
            1 if !bytes.is_empty() => bytes.truncate(at.index(bytes.len())),
            _ => bytes.insert(at.index(bytes.len() + 1), flip),
        }
        fs::write(&files[file], bytes).unwrap();
        prop_assert!(verify_manifest(dir.path()).is_err());
    }
}

#[cfg(feature = "faults")]
mod faults {
    use super::*;
    use std::process::Command;

    fn state(dir: &Path, text: &str) -> Result<()> {
        write_atomic(&dir.join("file"), text.as_bytes())?;
        append(&dir.join("log"), b"line\n")?;
        publish(dir, "out", text, |tmp| write_file(&tmp.join("x"), text.as_bytes()))?;
        remove_dir(&dir.join("going"))?;
        commit_dir(dir, &format!("dir-{text}"), |tmp| {
            write_file(&tmp.join("x"), text.as_bytes())?;
            write_manifest(tmp, serde_json::Value::Null).map(drop)
        })
        .map(drop)
    }

    /// Not a test of its own: the process that the next test injures.
    #[test]
    #[ignore = "run by the test below, in its own process"]
    fn write_a_second_state_where_told() {
        if let Some(dir) = std::env::var_os("FEWSTEP_FAULT_DIR") {
            state(Path::new(&dir), "new").unwrap();
        }
    }

    #[test]
    fn after_a_fault_at_any_write_the_old_or_the_new_state_is_there_and_whole() {
        let begun = || {
            let dir = tempfile::tempdir().unwrap();
            state(dir.path(), "old").unwrap();
            fs::write(dir.path().join("out/mine"), "mine").unwrap();
            fs::create_dir_all(dir.path().join("going")).unwrap();
            fs::write(dir.path().join("going/x"), "x").unwrap();
            dir
        };
        let child = |dir: &Path, fault: &str| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--ignored", "--nocapture", "fs::tests::faults::write_a_second_state_where_told"])
                .env("FEWSTEP_FAULT", fault)
                .env("FEWSTEP_FAULT_DIR", dir)
                .output()
                .unwrap()
        };
        // A removal that fails at the very end is left to the next start, so success does not mean that there are no more.
        let listed = child(begun().path(), "list");
        let points = String::from_utf8_lossy(&listed.stderr).matches("fault point ").count();
        assert!(listed.status.success() && points >= 35, "only {points} fault points");
        for action in ["kill", "enospc", "eio"] {
            for n in 0..points {
                let dir = begun();
                let child = child(dir.path(), &format!("{n}:{action}"));
                if action == "kill" {
                    assert_eq!(child.status.code(), None, "killed, so without an exit code");
                }
                remove_stale_tmp(dir.path()).unwrap();
                assert!(!names(dir.path()).iter().any(|n| n.contains(".tmp-")));
                let file = fs::read_to_string(dir.path().join("file")).unwrap();
                assert!(["old", "new"].contains(&file.as_str()), "{action} at {n}: {file}");
                verify_manifest(&dir.path().join("dir-old")).unwrap();
                if dir.path().join("dir-new").exists() {
                    verify_manifest(&dir.path().join("dir-new")).unwrap();
                }
                // The published directory is the old one or the new one, and holds what others put there.
                let out = |name: &str| fs::read_to_string(dir.path().join("out").join(name)).unwrap();
                assert!(["old", "new"].contains(&out("x").as_str()) && out("mine") == "mine", "{action} at {n}");
                let going = dir.path().join("going");
                assert!(!going.exists() || going.join("x").exists(), "{action} at {n}: half of it is there");
                state(dir.path(), "new").or_else(|e| if e.kind == Kind::Usage { Ok(()) } else { Err(e) }).unwrap();
                assert_eq!((out("x").as_str(), out("mine").as_str()), ("new", "mine"), "{action} at {n}");
                assert!(!going.exists() && !names(dir.path()).iter().any(|n| n.contains(".tmp-")));
            }
        }
    }
}
