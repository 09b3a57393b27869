//! The script beside the benches, as far as it goes without PyTorch.

use std::path::Path;
use std::process::Command;

#[test]
fn wrong_arguments_of_the_comparison_with_pytorch_end_in_one_line_that_says_what_to_write() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let run =
        |args: &[&str]| Command::new("python3").arg("benches/against_torch.py").args(args).current_dir(root).output();
    let peer = ["--peer", "benches/against_torch.py"];
    for (args, words) in [
        (&["--networks", "ab"][..], "no network 'ab'"),
        (&["--networks", "a,,b"], "no network ''"),
        (&["--networks", "a,a"], "a network twice"),
        (&["--rounds", "0"], "write 1 or more"),
        (&["--rounds", "x"], "write 1 or more"),
        (&["--python", "no-such-program"], "'no-such-program' is not a program"),
        (&["--steps", "no-such-bench"], "'no-such-bench' is not a program"),
        (&["--peer", "no-such-file.py"], "there is no file 'no-such-file.py'"),
    ] {
        let Ok(done) = run(&[&peer[..], args].concat()) else {
            println!("skipped: there is no python3");
            return;
        };
        let text = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains(words) && !text.contains("Traceback"), "{args:?}: {text}");
    }
}
