//! `tidegate monitor` against the demo site, on both runtimes.

mod cli_common;

use std::collections::HashMap;

use cli_common::{Files, KEYS, RUNTIMES, check_stats, keys_of, run};
use tidegate_examples::demo::{DemoOptions, DemoSite};

#[test]
fn down_is_said_after_two_looks_and_a_refused_head_is_no_outage() {
    for runtime in RUNTIMES {
        let site = DemoSite::start(DemoOptions::default()).expect("the site starts");
        let url = |n: u32| format!("{}monitor/{n}", site.url());
        let files = Files::new();
        // 13 is always down, 250 every other time, 7 refuses HEAD.
        let list: String = [0, 1, 7, 13, 250].map(|n| url(n) + "\n").concat();
        let (list, stats) = (files.write("list.txt", list), files.path("stats.json"));
        let options = ["monitor", "--input", &list, "--period", "400ms", "--rounds", "4"];
        let ended = run(&options.into_iter().chain(["--runtime", runtime, "--stats", &stats]).collect::<Vec<_>>());
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let keys: Vec<_> = KEYS.into_iter().chain(["state", "certificate_expires_at"]).collect();
        let mut looks: HashMap<&str, Vec<(u64, &str)>> = HashMap::new();
        for (line, record) in ended.lines.iter().zip(&ended.records) {
            assert_eq!(keys_of(line), keys);
            assert!(record["bytes_wire"] == 0 && record["bytes"].is_null() && record["attempts"] == 1, "{line}");
            assert!(record["timing_ms"]["local"].is_f64(), "our own lag is kept apart: {line}");
            let look = (record["status"].as_u64().expect("an answer"), record["state"].as_str().expect("a state"));
            looks.entry(record["url"].as_str().expect("text")).or_default().push(look);
        }
        assert_eq!(looks.len(), 5);
        // A busy machine may leave a look out, so what is told is compared with what was seen.
        for (url, looks) in &looks {
            let mut bad = 0;
            for (status, state) in looks {
                bad = if *status < 400 { 0 } else { bad + 1 };
                assert_eq!(*state, ["up", "suspect", "down"][bad.min(2)], "{url}: {looks:?}");
            }
        }
        let all = |n: u32, wanted: u64| looks[url(n).as_str()].iter().all(|(status, _)| *status == wanted);
        assert!(all(0, 200) && all(7, 200) && all(13, 503), "{looks:?}");
        assert!(looks[url(250).as_str()].iter().all(|(_, state)| *state != "down"), "{looks:?}");
        let stats = files.json("stats.json");
        check_stats(&stats);
        assert_eq!(stats["submitted"], ended.records.len());
        assert!(ended.stderr.contains("starts in each tenth of the period: "), "{}", ended.stderr);
    }
}
