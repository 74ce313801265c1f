//! What the program says about bad input, and its exit status.

mod cli_common;

use std::io::Read as _;

use cli_common::{Files, RUNTIMES, Running, refusing, run};
use tidegate_examples::demo::{DemoOptions, DemoSite};

/// The only line on standard error.
fn line(stderr: &str) -> &str {
    let text = stderr.trim_end();
    assert!(!text.contains('\n'), "more than a line: {text}");
    text
}

#[test]
fn no_such_file() {
    let ended = run(&["fetch", "--input", "/nowhere/list.txt"]);
    assert_eq!(ended.code, Some(2));
    assert_eq!(line(&ended.stderr), "tidegate: cannot open /nowhere/list.txt: No such file or directory");
    let ended = run(&["fetch", "--input", "/"]);
    assert_eq!((ended.code, line(&ended.stderr)), (Some(2), "tidegate: cannot read /: it is a directory"));
    let ended = run(&["fetch", "http://127.0.0.1/", "--cacert", "/nowhere/ca.pem"]);
    assert_eq!(line(&ended.stderr), "tidegate: cannot open /nowhere/ca.pem: No such file or directory");
}

#[test]
fn nothing_to_fetch() {
    for args in [&["fetch"][..], &["monitor"], &["fetch", "--input", "-", "--repeat", "2"]] {
        let ended = run(args);
        assert_eq!(ended.code, Some(2), "{args:?}");
        assert!(line(&ended.stderr).starts_with("tidegate: "), "{}", ended.stderr);
    }
}

#[test]
fn a_malformed_url_is_a_record() {
    let files = Files::new();
    let list = files.write("list.txt", "http://[::1\n");
    for runtime in RUNTIMES {
        let ended = run(&["fetch", "--input", &list, "--runtime", runtime]);
        assert_eq!((ended.code, ended.records.len()), (Some(0), 1));
        assert_eq!(ended.records[0]["error"]["kind"], "url.invalid");
    }
}

#[test]
fn an_unknown_value_of_an_option() {
    for option in [
        ["--runtime", "async-std"],
        ["--parse", "quickly"],
        ["--delay", "5"],
        ["--max-body", "8 parsecs"],
        ["--rate", "0/s"],
        ["--accept-status", "2xx"],
        ["--header", "no colon"],
        ["--resolve", "a.test"],
        ["--local-address", "a.test"],
        ["--verbosity", "9"],
        ["--proxy", "gopher://127.0.0.1:70"],
    ] {
        let ended = run(&["fetch", "http://127.0.0.1/", option[0], option[1]]);
        assert_eq!((ended.code, ended.records.len()), (Some(2), 0), "{option:?}: {}", ended.stderr);
        assert!(!ended.stderr.is_empty());
    }
}

#[test]
fn an_unreachable_host() {
    let url = format!("http://{}/", refusing());
    for runtime in RUNTIMES {
        let ended = run(&["fetch", &url, "--retries", "0", "--runtime", runtime]);
        assert_eq!((ended.code, &ended.records[0]["error"]["kind"]), (Some(0), &"connect.refused".into()));
        let ended = run(&["fetch", &url, "--retries", "0", "--runtime", runtime, "--fail"]);
        assert_eq!(ended.code, Some(3));
        let ended = run(&["crawl", &url, "--retries", "0", "--runtime", runtime, "--no-robots", "--quiet"]);
        assert_eq!((ended.code, ended.records.len()), (Some(1), 1));
        let line = line(&ended.stderr);
        assert!(line.starts_with("tidegate: no seed was reachable: connect.refused: "), "{line}");
    }
}

#[test]
fn output_that_cannot_be_written() {
    let site = DemoSite::start(DemoOptions::default()).expect("the site starts");
    let url = site.url().to_string();
    let ended = run(&["fetch", &url, "--out", "/nowhere/out.jsonl"]);
    assert_eq!(ended.code, Some(2));
    assert_eq!(line(&ended.stderr), "tidegate: cannot write /nowhere/out.jsonl: No such file or directory");
    let ended = run(&["fetch", &url, "--stats", "/nowhere/stats.json"]);
    assert_eq!(ended.code, Some(2));
    assert_eq!(site.stats().total(), 0, "found before any request");
}

// H4
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_ends_the_run() {
    let site = DemoSite::start(DemoOptions::default()).expect("the site starts");
    for runtime in RUNTIMES {
        let ended = run(&["fetch", site.url().as_str(), "--out", "/dev/full", "--quiet", "--runtime", runtime]);
        assert_eq!(ended.code, Some(1));
        assert_eq!(line(&ended.stderr), "tidegate: cannot write /dev/full: No space left on device");
    }
}

#[test]
fn output_that_exists() {
    let site = DemoSite::start(DemoOptions::default()).expect("the site starts");
    let url = site.url().to_string();
    let files = Files::new();
    let out = files.write("out.jsonl", "kept\n");
    let ended = run(&["fetch", &url, "--out", &out]);
    assert_eq!(ended.code, Some(2));
    assert_eq!(line(&ended.stderr), format!("tidegate: {out} exists: give --append or --force"));
    assert_eq!(std::fs::read_to_string(&out).expect("there"), "kept\n");
    assert_eq!(site.stats().total(), 0, "found before any request");
    assert_eq!(run(&["fetch", &url, "--out", &out, "--append"]).code, Some(0));
    let text = std::fs::read_to_string(&out).expect("there");
    assert!(text.starts_with("kept\n{") && text.lines().count() == 2, "{text}");
    assert_eq!(run(&["fetch", &url, "--out", &out, "--force"]).code, Some(0));
    assert_eq!(std::fs::read_to_string(&out).expect("there").lines().count(), 1);
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let site = DemoSite::start(DemoOptions::default()).expect("the site starts");
    let url = format!("{}monitor/1", site.url());
    for runtime in RUNTIMES {
        // Endless but for the pipe: the time is there so that a failing test ends.
        let options = ["fetch", &url, "--repeat", "100000000", "--runtime", runtime, "--quiet", "--max-time", "5m"];
        let mut running = Running::start(&options);
        assert_eq!(running.next_record()["status"], 200);
        let Running { mut child, stdout } = running;
        drop(stdout);
        let mut stderr = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("UTF-8");
        assert_eq!((child.wait().expect("it ends").code(), stderr.as_str()), (Some(0), ""));
    }
}

#[test]
fn both_outputs_on_standard_output() {
    for args in [
        &["fetch", "--stats", "-"][..],
        &["fetch", "--out", "-", "--stats", "-"],
        &["fetch", "--out", "x", "--stats", "x"],
        &["fetch", "--out", "x", "--trace", "-", "--stats", "-"],
        &["fetch", "--trace", "-"],
        &["fetch", "--out", "x", "--trace", "x"],
    ] {
        let ended = run(&args.iter().copied().chain(["http://127.0.0.1/"]).collect::<Vec<_>>());
        assert_eq!((ended.code, ended.records.len()), (Some(2), 0));
        let both = ["--out and --stats", "--out and --trace", "--stats and --trace"];
        let said = |names: &&str| line(&ended.stderr).starts_with(&format!("tidegate: {names} both go to "));
        assert!(both.iter().any(said), "{}", ended.stderr);
    }
}

#[test]
fn a_crawl_of_other_peoples_servers_says_who_it_is() {
    // Refused before anything is looked up.
    let ended = run(&["crawl", "http://www.example.test/"]);
    assert_eq!(ended.code, Some(2));
    assert!(line(&ended.stderr).ends_with("--user-agent 'name/version (+mailto:you@example.org)'"));
}

#[test]
fn help_states_the_defaults() {
    for command in ["crawl", "fetch", "monitor"] {
        let output = cli_common::command(&[command, "--help"]).output().expect("the program starts");
        let help = String::from_utf8(output.stdout).expect("UTF-8");
        assert_eq!(output.status.code(), Some(0));
        // Each option that takes a value says what it is without one, apart from those that add something.
        for part in help.split("\n      --").skip(1) {
            let name = part.split_whitespace().next().unwrap_or_default();
            let takes_value = part.lines().next().is_some_and(|line| line.contains('<'));
            let adds = ["header", "cacert", "resolve", "include", "exclude", "input"].contains(&name);
            assert!(!takes_value || adds || part.contains("[default:"), "{command} --{part}");
        }
    }
}
