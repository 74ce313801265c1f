//! `--trace` and `--why`: what the program says of a run while it runs.

mod cli_common;

use std::collections::{HashMap, HashSet};
use std::io::Read as _;

use cli_common::{Files, RUNTIMES, Running, Server, answer, check_stats, command, refusing, run};

/// The names of the events of each job, in the order of the lines.
fn lives(trace: &str) -> HashMap<u64, Vec<String>> {
    let mut lives: HashMap<u64, Vec<String>> = HashMap::new();
    let mut last = 0.0;
    for line in trace.lines() {
        let mut words = line.split(' ');
        let at: f64 = words.next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no time: {line}"));
        assert!(at >= last, "time goes on: {line}");
        last = at;
        let mut word = words.next().expect("an event");
        if word != "job" {
            continue;
        }
        let job = words.next().and_then(|word| word.parse().ok()).expect("a number");
        word = words.next().expect("an event");
        if word == "attempt" {
            word = words.nth(1).expect("an event");
        }
        lives.entry(job).or_default().push(word.to_owned());
    }
    lives
}

#[test]
fn a_trace_has_the_life_of_each_url() {
    let server = Server::start(|_| answer("200 OK", "", "text"));
    let dead = format!("http://{}/", refusing());
    for runtime in RUNTIMES {
        let files = Files::new();
        let trace = files.path("trace.txt");
        let urls = [format!("http://{}/1", server.addr), format!("http://{}/2", server.addr), dead.clone()];
        let urls = urls.each_ref().map(String::as_str);
        let options = ["fetch", urls[0], urls[1], urls[2], "--retries", "0", "--trace", &trace, "--runtime", runtime];
        let ended = run(&options);
        assert_eq!((ended.code, ended.records.len()), (Some(0), 3), "{}", ended.stderr);
        let text = std::fs::read_to_string(&trace).expect("written");
        let lives = lives(&text);
        assert_eq!(lives.len(), 3, "{text}");
        for record in &ended.records {
            let life = &lives[&record["seq"].as_u64().expect("a number")];
            let expected = match record["outcome"].as_str() {
                Some("ok") => {
                    &["leased", "queued", "dispatched", "connected", "headers", "body", "parsed", "settled"][..]
                }
                _ => &["leased", "queued", "dispatched", "phase", "settled"],
            };
            let known: HashSet<_> = expected.iter().copied().collect();
            let seen: Vec<_> = life.iter().map(String::as_str).filter(|name| known.contains(name)).collect();
            let mut once = seen.clone();
            once.dedup();
            assert_eq!(once, expected, "{text}");
            assert_eq!(life.iter().filter(|name| *name == "settled").count(), 1, "{text}");
        }
        assert!(text.contains("settled error connect.refused"), "{text}");
    }
}

#[test]
fn a_trace_that_exists_is_left_alone_unless_told_otherwise() {
    let server = Server::start(|_| answer("200 OK", "", "text"));
    let url = format!("http://{}/", server.addr);
    let files = Files::new();
    let trace = files.write("trace.txt", "0.5 kept\n");
    let ended = run(&["fetch", &url, "--trace", &trace]);
    assert_eq!(ended.code, Some(2));
    assert_eq!(ended.stderr.trim_end(), format!("tidegate: {trace} exists: give --append or --force"));
    assert!(server.heads().is_empty(), "found before any request");
    assert_eq!(run(&["fetch", &url, "--trace", &trace, "--append"]).code, Some(0));
    let text = std::fs::read_to_string(&trace).expect("there");
    assert!(text.starts_with("0.5 kept\n0.") && text.contains("settled ok"), "{text}");
    assert_eq!(run(&["fetch", &url, "--trace", &trace, "--force"]).code, Some(0));
    assert!(!std::fs::read_to_string(&trace).expect("there").contains("kept"));
    // With --demo records go nowhere, but the trace is a file that these are about.
    let trace = files.path("demo.txt");
    let ended = run(&["crawl", "--demo", "--max-pages", "3", "--trace", &trace, "--force", "--quiet"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(std::fs::read_to_string(&trace).expect("there").contains(" prepared http://127.0.0.1:"));
}

#[test]
fn a_trace_on_standard_output() {
    let server = Server::start(|_| answer("200 OK", "", "text"));
    let files = Files::new();
    let out = files.path("out.jsonl");
    let output = command(&["fetch", &format!("http://{}/", server.addr), "--trace", "-", "--out", &out]).output();
    let output = output.expect("the program starts");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!((output.status.code(), lives(&text).len()), (Some(0), 1), "{text}");
    assert!(std::fs::read_to_string(&out).expect("there").starts_with("{\"v\":1"));
}

// H4
#[test]
#[cfg(target_os = "linux")]
fn a_trace_that_cannot_be_written_ends_the_run() {
    let server = Server::start(|_| answer("200 OK", "", "text"));
    let url = format!("http://{}/", server.addr);
    // Endless but for the disk: the time is there so that a failing test ends.
    let options = ["fetch", &url, "--repeat", "100000000", "--max-time", "5m", "--out", "/dev/null", "--quiet"];
    let ended = run(&options.into_iter().chain(["--trace", "/dev/full"]).collect::<Vec<_>>());
    assert_eq!(ended.code, Some(1));
    assert_eq!(ended.stderr.trim_end(), "tidegate: cannot write /dev/full: No space left on device");
    let mut running = Running::start(&options.into_iter().chain(["--trace", "-"]).collect::<Vec<_>>());
    running.stdout.read_exact(&mut [0; 64]).expect("lines");
    let Running { mut child, stdout } = running;
    drop(stdout);
    let mut stderr = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("UTF-8");
    assert_eq!((child.wait().expect("it ends").code(), stderr.as_str()), (Some(0), ""), "a closed pipe is quiet");
}

/// Each set-up is bound by one thing for nearly all of its time; the statistics and the last line of --why say so.
#[test]
fn why_names_what_the_run_was_bound_by() {
    let server = Server::start(|_| answer("200 OK", "", "text"));
    let url = format!("http://{}/", server.addr);
    for (options, code, words) in
        [(&["--delay", "200ms"][..], "politeness", "politeness"), (&["--rate", "5/s"], "rate", "rate")]
    {
        let files = Files::new();
        let stats = files.path("stats.json");
        let fixed = ["fetch", &url, "--repeat", "7", "--why", "--stats", &stats, "--quiet"];
        let ended = run(&fixed.into_iter().chain(options.iter().copied()).collect::<Vec<_>>());
        assert_eq!((ended.code, ended.records.len()), (Some(0), 7), "{}", ended.stderr);
        let lines: Vec<_> = ended.stderr.lines().collect();
        assert!(!lines.is_empty(), "at least the last");
        for line in &lines {
            let parts: Vec<_> = line.strip_prefix("tidegate: ").expect("ours").split(", ").collect();
            assert!(
                parts[0].ends_with(" active") && parts[1].ends_with(" queued") && parts[2].ends_with("/s"),
                "{line}"
            );
            assert!(line.contains(", lag p99 ") && line.contains(", bound by "), "{line}");
        }
        assert!(lines.iter().any(|line| line.contains(&format!("bound by {words} "))), "{lines:?}");
        let stats = files.json("stats.json");
        check_stats(&stats);
        assert_eq!(stats["bound_by"][0]["bound"], code, "{stats}");
        assert!(stats["bound_by"][0]["share"].as_f64().is_some_and(|share| share > 0.5), "{stats}");
        assert_eq!(stats["latency_ms"]["total"]["count"], 7, "{stats}");
        assert!(stats["littles_law"]["l"].is_f64() && stats["littles_law"]["ratio"].is_f64(), "{stats}");
    }
}

#[test]
fn the_report_names_what_it_was_bound_by_with_shares() {
    let server = Server::start(|_| answer("200 OK", "", "text"));
    let url = format!("http://{}/", server.addr);
    let ended = run(&["fetch", &url, "--repeat", "3", "--delay", "200ms", "--out", "/dev/null"]);
    assert!(ended.stderr.contains("; bound by politeness ") && ended.stderr.contains(" %"), "{}", ended.stderr);
}
