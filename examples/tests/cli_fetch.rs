//! `tidegate fetch` against the demo site, on both runtimes.

mod cli_common;

use base64::Engine as _;
use cli_common::{Files, KEYS, RUNTIMES, Server, answer, check_stats, keys_of, run, run_with_input};
use sha2::{Digest as _, Sha256};
use tidegate_examples::demo::{DemoOptions, DemoSite};

fn site() -> DemoSite {
    DemoSite::start(DemoOptions::default()).expect("the site starts")
}

#[test]
fn one_record_for_each_url_with_every_key() {
    let site = site();
    let url = |path: &str| format!("{}{path}", site.url());
    for runtime in RUNTIMES {
        let files = Files::new();
        let urls: Vec<_> = ["", "missing/1", "errors/1", "redirects/chain-3", "broken/status-line", "private/keys"]
            .into_iter()
            .map(url)
            .collect();
        let stats = files.path("stats.json");
        let options = ["fetch", "--runtime", runtime, "--retries", "0", "--stats", &stats, "--body", "inline"];
        let ended = run(&options.into_iter().chain(urls.iter().map(String::as_str)).collect::<Vec<_>>());
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert_eq!(ended.records.len(), urls.len());
        for line in &ended.lines {
            assert_eq!(keys_of(line), KEYS);
        }
        let home = ended.of(&url(""));
        assert_eq!(
            (&home["outcome"], &home["status"], &home["version"]),
            (&"ok".into(), &200.into(), &"HTTP/1.1".into())
        );
        assert_eq!(home["content_type"], "text/html; charset=utf-8");
        assert_eq!(home["remote"], site.addr().to_string());
        assert!(
            home["error"].is_null() && home["headers"].is_null() && home["id"].is_null() && home["proxy"].is_null()
        );
        let body =
            base64::engine::general_purpose::STANDARD.decode(home["body"].as_str().expect("text")).expect("base64");
        assert!(body.starts_with(b"<!doctype html>") || body.starts_with(b"<!DOCTYPE html>"));
        assert_eq!(home["bytes"], body.len());
        let hash: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(home["sha256"], hash.as_str());
        assert!(home["timing_ms"]["total"].as_f64().is_some_and(|total| total > 0.0), "{home}");
        let at = home["fetched_at"].as_str().expect("text");
        assert!(at.len() == 24 && at.starts_with("20") && at.ends_with('Z'), "{at}");
        // A complete answer of any status is ok.
        assert_eq!(
            (&ended.of(&url("missing/1"))["outcome"], &ended.of(&url("missing/1"))["status"]),
            (&"ok".into(), &404.into())
        );
        assert_eq!(
            (&ended.of(&url("errors/1"))["outcome"], &ended.of(&url("errors/1"))["status"]),
            (&"ok".into(), &500.into())
        );
        let moved = ended.of(&url("redirects/chain-3"));
        assert_eq!(moved["final_url"], url("redirects/landed"));
        let hops: Vec<_> =
            moved["redirects"].as_array().expect("a list").iter().map(|hop| hop["status"].clone()).collect();
        assert_eq!(hops, [301, 307, 303]);
        let broken = ended.of(&url("broken/status-line"));
        assert_eq!((&broken["outcome"], &broken["error"]["kind"]), (&"error".into(), &"http.status_line".into()));
        assert!(broken["error"]["message"].as_str().is_some_and(|text| !text.is_empty()));
        assert!(broken["sha256"].is_null() && broken["bytes"].is_null() && broken["body"].is_null());
        // A list is fetched as it is: no robots.txt.
        assert_eq!(ended.of(&url("private/keys"))["status"], 200);
        let stats = files.json("stats.json");
        check_stats(&stats);
        assert_eq!((&stats["ok"], &stats["error"], &stats["runtime"]), (&5.into(), &1.into(), &runtime.into()));
        assert_eq!(stats["errors"]["http.status_line"], 1);
        assert_eq!(stats["finish_reason"], "done");
    }
}

#[test]
fn a_list_is_repeated_and_nothing_is_a_duplicate() {
    let site = site();
    for runtime in RUNTIMES {
        let files = Files::new();
        let list = files.write("list.txt", format!("{0}\n{0}\n", site.url()));
        let out = files.path("out.jsonl");
        let url = format!("{}monitor/1", site.url());
        let options = ["fetch", &url, "--input", &list, "--repeat", "7", "--runtime", runtime, "--io-threads", "2"];
        let ended = run(&options.into_iter().chain(["--parse", "inline", "--out", &out]).collect::<Vec<_>>());
        assert_eq!((ended.code, ended.records.len()), (Some(0), 0), "{}", ended.stderr);
        let text = std::fs::read_to_string(&out).expect("written");
        let mut seqs: Vec<u64> = text
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).expect("JSON")["seq"].as_u64().expect("a number")
            })
            .collect();
        seqs.sort_unstable();
        assert_eq!(seqs, (1..=21).collect::<Vec<_>>());
    }
}

#[test]
fn bad_lines_are_records() {
    let site = site();
    let good = site.url();
    let input = format!(
        "\u{feff}# a list\r\n\r\n{good}\r\nhttp://\r\nnot a url\r\nftp://a.test/\r\n{{\"url\":3}}\r\n{{\"id\":\"x\",\"url\":\"{good}monitor/2\"}}"
    );
    for runtime in RUNTIMES {
        let ended = run_with_input(&["fetch", "--input", "-", "--runtime", runtime], input.as_bytes());
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert_eq!(ended.records.len(), 6);
        assert_eq!(ended.of(good.as_str())["outcome"], "ok");
        assert_eq!(ended.of(&format!("{good}monitor/2"))["id"], "x");
        for (url, kind) in [("http://", "url.invalid"), ("not a url", "url.invalid"), ("ftp://a.test/", "url.scheme")] {
            assert_eq!(ended.of(url)["error"]["kind"], kind);
        }
        let bad = ended.records.iter().find(|record| record["url"].is_null()).expect("one without a URL");
        assert_eq!(bad["error"]["kind"], "url.invalid");
        let message = bad["error"]["message"].as_str().expect("text");
        assert!(message.starts_with("read line 7 of the input: invalid type"), "{message}");
    }
}

#[test]
fn lines_of_json_are_requests() {
    let site = site();
    let sku = &site.catalogue()[0].sku;
    let line = format!(
        r#"{{"id":17,"url":"{}catalogue/reviews","method":"POST","headers":{{"content-type":"application/json"}},"body":"{{\"sku\":\"{sku}\",\"page\":1}}","timeouts":{{"total":"20s"}}}}"#,
        site.url()
    );
    let ended = run_with_input(&["fetch", "--input", "-", "--body", "inline", "--include-headers"], line.as_bytes());
    let record = &ended.records[0];
    assert_eq!((&record["id"], &record["status"]), (&"17".into(), &200.into()), "{record}");
    let headers = record["headers"].as_array().expect("a list");
    assert!(headers.iter().any(|field| field[0] == "content-type" && field[1] == "application/json"), "{headers:?}");
}

#[test]
fn the_list_of_statuses_says_what_an_answer_is() {
    let site = site();
    let urls = ["monitor/1", "missing/1"].map(|path| format!("{}{path}", site.url()));
    for runtime in RUNTIMES {
        let ended = run(&["fetch", &urls[0], &urls[1], "--accept-status", "404", "--runtime", runtime, "--fail"]);
        assert_eq!(ended.code, Some(3), "{}", ended.stderr);
        assert_eq!(
            (&ended.of(&urls[0])["outcome"], &ended.of(&urls[0])["error"]["kind"]),
            (&"error".into(), &"http.status".into())
        );
        assert_eq!(ended.of(&urls[1])["outcome"], "ok");
    }
}

#[test]
fn no_redirects_makes_the_redirect_the_answer() {
    let site = site();
    let url = format!("{}redirects/single", site.url());
    let ended = run(&["fetch", &url, "--max-redirects", "0"]);
    let record = ended.of(&url);
    assert_eq!((&record["status"], &record["outcome"]), (&302.into(), &"ok".into()));
    assert_eq!((&record["final_url"], &record["redirects"]), (&url.as_str().into(), &serde_json::json!([])));
}

// C2, C7
#[test]
fn headers_do_not_go_to_another_origin() {
    let other = Server::start(|_| answer("200 OK", "", "other"));
    let target = format!("location: http://{}/\r\n", other.addr);
    let seed = Server::start(move |_| answer("302 Found", &target, ""));
    let url = format!("http://me:hunter2@{}/", seed.addr);
    let ended = run(&["fetch", &url, "--header", "X-Secret: s3cret", "--user-agent", "probe/1"]);
    assert_eq!(ended.records[0]["status"], 200, "{}", ended.stderr);
    let (seen, told) = (seed.heads().concat(), other.heads().concat());
    assert!(seen.contains("x-secret: s3cret") && seen.contains("authorization: basic"), "{seen}");
    assert!(
        !told.contains("s3cret") && !told.contains("authorization") && told.contains("user-agent: probe/1"),
        "{told}"
    );
    assert!(!ended.lines[0].contains("hunter2") && !ended.stderr.contains("hunter2"));
}
