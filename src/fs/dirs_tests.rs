//! Tests of directories: they appear and go by renames, only what is ours is replaced, and no link is followed.

use super::*;
use std::collections::BTreeSet;

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

fn named(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|n| n.to_string()).collect()
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(path).unwrap()
}

/// A fresh directory, and `publish` into its `out` of files with their content.
fn put(dir: &Path, key: &str, files: &[(&str, &str)]) -> Result<Published<()>> {
    publish(dir, "out", key, |tmp| {
        for (name, text) in files {
            create_dir(tmp.join(name).parent().unwrap())?;
            write_file(&tmp.join(name), text.as_bytes())?;
        }
        Ok(())
    })
}

#[test]
fn a_new_directory_is_whole_or_absent_and_after_an_error_those_above_it_are_gone_too() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("a/b/new");
    let error = new_dir(&target, |tmp| {
        write_file(&tmp.join("x"), b"x")?;
        Err::<(), _>(Error::input(format!("{} is bad", tmp.join("x").display())))
    });
    assert_eq!(error.unwrap_err().message, format!("{} is bad", target.join("x").display()), "its final name is said");
    assert!(names(dir.path()).is_empty());
    assert_eq!(new_dir(&target, |tmp| write_file(&tmp.join("x"), b"x").map(|()| 7)).unwrap(), 7);
    assert_eq!((names(&target), names(&dir.path().join("a/b"))), (named(&["x"]), named(&["new"])));
    assert_eq!(new_dir(&target, |_| Ok(())).unwrap_err().kind, Kind::Usage);
    assert_eq!(names(&target), named(&["x"]));
}

#[test]
fn what_a_killed_process_left_of_a_directory_is_gone_after_the_next_one_and_other_files_stay() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("new.tmp-4294967295/half")).unwrap();
    fs::write(dir.path().join("theirs.tmp-4294967295"), "").unwrap();
    new_dir(&dir.path().join("new"), |_| Ok(())).unwrap();
    assert_eq!(names(dir.path()), named(&["new", "theirs.tmp-4294967295"]));
}

#[test]
fn a_directory_that_was_being_replaced_gets_its_name_back_unless_another_one_has_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("out.old.tmp-4294967295")).unwrap();
    fs::write(dir.path().join("out.old.tmp-4294967295/mine"), "1").unwrap();
    remove_stale_tmp(dir.path()).unwrap();
    assert_eq!(read(dir.path().join("out/mine")), "1");
    fs::create_dir_all(dir.path().join("out.old.tmp-4294967295")).unwrap();
    remove_stale_tmp(dir.path()).unwrap();
    assert_eq!(names(dir.path()), named(&["out"]));
    assert_eq!(read(dir.path().join("out/mine")), "1");
}

#[cfg(unix)]
#[test]
fn links_are_replaced_or_removed_or_refused_and_what_they_lead_to_stays() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let (outside, inside) = (dir.path().join("outside"), dir.path().join("inside"));
    fs::create_dir_all(outside.join("out")).unwrap();
    fs::create_dir(&inside).unwrap();
    fs::write(outside.join("keep"), "1").unwrap();
    fs::write(outside.join("out/keep"), "1").unwrap();
    let untouched = || assert_eq!(read(outside.join("keep")) + &read(outside.join("out/keep")), "11");

    symlink(outside.join("keep"), inside.join("file")).unwrap();
    write_atomic(&inside.join("file"), b"2").unwrap();
    untouched();
    assert_eq!(read(inside.join("file")), "2");
    // A link planted at the name that the temporary file will have.
    symlink(outside.join("keep"), inside.join(format!("other.tmp-{}", std::process::id()))).unwrap();
    write_atomic(&inside.join("other"), b"2").unwrap();
    untouched();
    assert_eq!(read(inside.join("other")), "2");

    symlink(outside.join("out"), inside.join("dir")).unwrap();
    remove_dir(&inside.join("dir")).unwrap();
    untouched();
    symlink(outside.join("out"), inside.join("dir.tmp-4294967295")).unwrap();
    remove_stale_tmp(&inside).unwrap();
    untouched();
    assert_eq!(names(&inside), named(&["file", "other"]));

    symlink(outside.join("out"), inside.join("out")).unwrap();
    let refused = put(&inside, "1", &[("keep", "2")]).unwrap_err();
    assert!(refused.kind == Kind::Usage && refused.hint.as_deref().unwrap().contains("rm "), "{refused}");
    assert_eq!(new_dir(&inside.join("out"), |_| Ok(())).unwrap_err().kind, Kind::Usage);
    fs::remove_file(inside.join("out")).unwrap();
    symlink("nowhere", inside.join("out")).unwrap();
    assert_eq!(new_dir(&inside.join("out"), |_| Ok(())).unwrap_err().kind, Kind::Usage);
    symlink(&outside, dir.path().join("link")).unwrap();
    assert_eq!(put(&dir.path().join("link"), "1", &[("keep", "2")]).unwrap_err().kind, Kind::Usage);
    untouched();
}

#[test]
fn a_published_directory_is_made_anew_only_when_its_key_or_its_files_changed() {
    let dir = tempfile::tempdir().unwrap();
    let files = [("a", "1"), ("sub/b", "2")];
    assert_eq!(put(dir.path(), "k", &files).unwrap(), Published::Now(()));
    let again = publish(dir.path(), "out", "k", |_| -> Result<()> { panic!("nothing was to be done") });
    assert_eq!(again.unwrap(), Published::Before);
    fs::remove_file(dir.path().join("out/a")).unwrap();
    assert_eq!(put(dir.path(), "k", &files).unwrap(), Published::Now(()));
    assert_eq!(put(dir.path(), "l", &[("c", "3")]).unwrap(), Published::Now(()));
    assert_eq!((names(&dir.path().join("out")), names(dir.path())), (named(&["c"]), named(&["out", ".out.json"])));
}

#[test]
fn files_of_others_stay_in_a_published_directory_and_ours_that_were_changed_are_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    put(dir.path(), "1", &[("README.md", "ours"), ("model", "old")]).unwrap();
    fs::create_dir(out.join("plots")).unwrap();
    for (name, text) in [("notes.txt", "mine"), ("plots/x", "mine"), (".hidden", "mine")] {
        fs::write(out.join(name), text).unwrap();
    }
    put(dir.path(), "2", &[("README.md", "newer"), ("model", "new")]).unwrap();
    assert_eq!(names(&out), named(&["README.md", "model", "notes.txt", "plots", ".hidden"]));
    assert_eq!(read(out.join("model")) + &read(out.join("plots/x")) + &read(out.join("notes.txt")), "newminemine");

    fs::write(out.join("README.md"), "a card of my own").unwrap();
    let refused = put(dir.path(), "3", &[("README.md", "newest"), ("model", "newest")]).unwrap_err();
    assert!(refused.kind == Kind::Usage && refused.to_string().contains("README.md"), "{refused}");
    // With nothing new to write, nothing is in the way.
    assert_eq!((read(out.join("README.md")), read(out.join("model"))), ("a card of my own".into(), "new".into()));
    // Nor is a file of theirs put below one of ours, or the other way round.
    fs::write(out.join("README.md"), "newer").unwrap();
    assert_eq!(put(dir.path(), "4", &[("notes.txt/x", "y")]).unwrap_err().kind, Kind::Usage);
    assert_eq!(put(dir.path(), "4", &[("plots", "y")]).unwrap_err().kind, Kind::Usage);
    assert_eq!(names(dir.path()), named(&["out", ".out.json"]));
}

#[test]
fn an_export_whose_list_is_lost_is_set_aside_whole_and_made_anew() {
    let place = tempfile::tempdir().unwrap();
    let exports = place.path().join("export");
    fs::create_dir_all(exports.join("out")).unwrap();
    for name in ["config.json", "recipe.toml", "README.md", "notes.txt"] {
        fs::write(exports.join("out").join(name), "before").unwrap();
    }
    let made = publish(&exports, "out", "key", |tmp| write_file(&tmp.join("config.json"), b"now")).unwrap();
    assert_eq!(made, Published::Now(()));
    let read = |path: &str| fs::read_to_string(place.path().join(path)).unwrap();
    assert_eq!(read("export/out/config.json"), "now");
    assert_eq!(
        [read("replaced/export-out-1/config.json"), read("replaced/export-out-1/notes.txt")],
        ["before", "before"]
    );
}

#[test]
fn a_directory_that_we_did_not_write_is_refused_and_one_with_our_very_content_is_taken_as_ours() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    fs::write(dir.path().join("out/keep"), "1").unwrap();
    let refused = put(dir.path(), "1", &[("a", "1")]).unwrap_err();
    assert!(
        refused.kind == Kind::Usage && refused.message.contains("no list of what fewstep wrote there"),
        "{refused}"
    );
    assert_eq!((names(&dir.path().join("out")), names(dir.path())), (named(&["keep"]), named(&["out"])));
    // What the hint says helps.
    fs::rename(dir.path().join("out"), dir.path().join("out-mine")).unwrap();
    put(dir.path(), "1", &[("a", "1")]).unwrap();
    // The list is lost, or damaged.
    for list in [None, Some("{")] {
        fs::remove_file(dir.path().join(".out.json")).unwrap();
        list.map_or(Ok(()), |text| fs::write(dir.path().join(".out.json"), text)).unwrap();
        put(dir.path(), "1", &[("a", "1")]).unwrap();
        assert_eq!(put(dir.path(), "1", &[]).unwrap(), Published::Before);
    }
    fs::remove_dir_all(dir.path().join("out")).unwrap();
    fs::write(dir.path().join("out"), "a file").unwrap();
    assert_eq!(put(dir.path(), "1", &[("a", "1")]).unwrap_err().kind, Kind::Usage);
    assert_eq!(read(dir.path().join("out")), "a file");
}

#[cfg(unix)]
#[test]
fn what_is_there_and_no_file_is_written_to_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read(pipe).unwrap()
    });
    write_named(&pipe, b"text").unwrap();
    assert_eq!(reader.join().unwrap(), b"text");
    assert!(write_atomic(&pipe, b"text").unwrap_err().to_string().contains("not a regular file"));
    assert_eq!(names(dir.path()), named(&["pipe"]));
}
