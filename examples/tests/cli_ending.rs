//! Signals and deadlines: every URL that was submitted has a record, and the exit status says why it ended.

mod cli_common;

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use cli_common::{Files, RUNTIMES, Running, check_stats, command, run};
use rustix::process::Signal;
use tidegate_examples::demo::{DemoOptions, DemoSite};

fn site() -> DemoSite {
    DemoSite::start(DemoOptions::default()).expect("the site starts")
}

// K4
#[test]
fn a_signal_ends_it_with_a_record_for_each_url() {
    let site = site();
    let url = format!("{}monitor/1", site.url());
    for runtime in RUNTIMES {
        for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
            let files = Files::new();
            let stats = files.path("stats.json");
            let options =
                ["fetch", &url, "--repeat", "100000000", "--runtime", runtime, "--stats", &stats, "--max-time", "5m"];
            let mut running = Running::start(&options);
            let mut seqs: HashSet<u64> = HashSet::new();
            for _ in 0..20 {
                seqs.insert(running.next_record()["seq"].as_u64().expect("a number"));
            }
            running.signal(signal);
            let ended = running.finish();
            assert_eq!(ended.code, Some(code), "{}", ended.stderr);
            let count = ended.records.len() + seqs.len();
            seqs.extend(ended.records.iter().map(|record| record["seq"].as_u64().expect("a number")));
            assert_eq!(seqs.len(), count, "no URL has two records");
            let stats = files.json("stats.json");
            check_stats(&stats);
            assert_eq!(stats["submitted"], count, "each URL has one");
            assert_eq!(stats["finish_reason"], "shutdown");
            let cancelled = ended.records.iter().filter(|record| record["outcome"] == "cancelled").count();
            assert_eq!(stats["cancelled"], cancelled);
        }
    }
}

// K5
#[test]
fn a_second_signal_ends_it_at_once() {
    let site = site();
    let (quick, slow) = (format!("{}monitor/1", site.url()), format!("{}slow/60000", site.url()));
    for runtime in RUNTIMES {
        let options = ["fetch", &slow, &quick, "--runtime", runtime, "--first-byte-timeout", "2m"];
        let mut running = Running::start(&options);
        assert_eq!(running.next_record()["url"], quick.as_str());
        running.signal(Signal::INT);
        let mut stderr = BufReader::new(running.child.stderr.take().expect("piped"));
        let mut line = String::new();
        stderr.read_line(&mut line).expect("a line");
        assert_eq!(line, "tidegate: ending within 30s; a second signal ends at once\n");
        running.signal(Signal::INT);
        assert_eq!(running.child.wait().expect("it ends").code(), Some(130));
        let mut rest = String::new();
        running.stdout.read_line(&mut rest).expect("the end");
        assert_eq!(rest, "", "the slow URL was neither waited for nor cancelled");
    }
}

#[test]
fn an_open_standard_input_does_not_keep_it() {
    let site = site();
    for runtime in RUNTIMES {
        let mut command = command(&["fetch", "--input", "-", "--runtime", runtime, "--quiet"]);
        command.stdin(Stdio::piped());
        let mut running = Running::spawn(command);
        let mut stdin = running.child.stdin.take().expect("piped");
        writeln!(stdin, "{}", site.url()).expect("it reads");
        // A record comes although the list has not ended.
        assert_eq!(running.next_record()["status"], 200);
        running.signal(Signal::INT);
        let ended = running.finish();
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(130), ""));
        drop(stdin);
    }
}

#[test]
fn the_time_of_a_run_is_bounded() {
    let site = site();
    let url = format!("{}monitor/1", site.url());
    for runtime in RUNTIMES {
        let files = Files::new();
        let stats = files.path("stats.json");
        let options =
            ["fetch", &url, "--repeat", "100000000", "--runtime", runtime, "--max-time", "300ms", "--stats", &stats];
        let ended = run(&options);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let stats = files.json("stats.json");
        check_stats(&stats);
        assert_eq!((&stats["finish_reason"], &stats["submitted"]), (&"max_time".into(), &ended.records.len().into()));
    }
}
