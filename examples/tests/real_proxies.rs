//! The program through proxies that others have written: squid, tinyproxy, microsocks and dante, to a site of nginx.
//!
//! They must be installed, so that `cargo test --workspace` leaves it out: `cargo test -p tidegate-examples --test real_proxies`.

mod cli_common;

use std::fs::Permissions;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cli_common::{Files, RUNTIMES, Running, run};

/// A process of its own, ended when it is dropped.
struct Daemon {
    child: Child,
    port: u16,
}

impl Daemon {
    /// Starts a program that will listen on `port`, and waits until it does.
    fn start(port: u16, program: &str, args: &[&str]) -> Self {
        Self::start_with(port, program, args, &[])
    }

    fn start_with(port: u16, program: &str, args: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program);
        command
            .args(args)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{program} is not installed: {e}"));
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = child.try_wait().expect("it is ours") {
                let mut said = String::new();
                let _ = child.stderr.take().expect("piped").read_to_string(&mut said);
                panic!("{program} ended with {status}: {said}");
            }
            #[expect(clippy::disallowed_methods, reason = "another process begins to listen")]
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, port }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

/// nginx with the same page over HTTP and HTTPS; its two URLs, and the file of its certificate.
fn site(files: &Files) -> (Daemon, [String; 2], String) {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let certificate = files.write("cert.pem", certified.cert.pem());
    let key = files.write("key.pem", certified.signing_key.serialize_pem());
    let [plain, tls] = [(); 2].map(|()| free_port());
    let paths = ["body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| {
        let option = if name == "body" { "client_body_temp_path".to_owned() } else { format!("{name}_temp_path") };
        format!("{option} {};", files.path(name))
    });
    let config = format!(
        "daemon off; master_process off; pid {}; error_log stderr; events {{}} http {{ access_log off; {} \
         server {{ listen 127.0.0.1:{plain}; listen 127.0.0.1:{tls} ssl; ssl_certificate {certificate}; \
         ssl_certificate_key {key}; location / {{ return 200 \"by $http_authorization$http_proxy_authorization.\"; }} }} }}",
        files.path("nginx.pid"),
        paths.concat(),
    );
    let config = files.write("nginx.conf", config);
    let daemon = Daemon::start(plain, "nginx", &["-c", &config]);
    (daemon, [format!("http://127.0.0.1:{plain}/"), format!("https://127.0.0.1:{tls}/")], certificate)
}

fn squid(files: &Files) -> Daemon {
    let port = free_port();
    let passwords = files.write("squid.passwords", format!("me:{}\n", hashed_password()));
    // It gives up being root, and is to read this all the same.
    let folder = std::path::Path::new(&passwords).parent().expect("a folder");
    std::fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("ours");
    let config = format!(
        "http_port 127.0.0.1:{port}\nauth_param basic program /usr/lib/squid/basic_ncsa_auth {passwords}\n\
         acl known proxy_auth REQUIRED\nhttp_access allow known\nhttp_access deny all\ncache deny all\n\
         access_log none\ncache_log /dev/null\npid_filename none\nshutdown_lifetime 0 seconds\n"
    );
    let config = files.write("squid.conf", config);
    Daemon::start(port, "squid", &["-N", "-f", &config])
}

fn tinyproxy(files: &Files) -> Daemon {
    let port = free_port();
    let config = format!("Port {port}\nListen 127.0.0.1\nTimeout 60\nAllow 127.0.0.1\nBasicAuth me hunter2\n");
    let config = files.write(&format!("tinyproxy{port}.conf"), config);
    Daemon::start(port, "tinyproxy", &["-d", "-c", &config])
}

fn microsocks() -> Daemon {
    let port = free_port();
    Daemon::start(port, "microsocks", &["-i", "127.0.0.1", "-p", &port.to_string(), "-u", "me", "-P", "hunter2"])
}

fn dante_config(files: &Files, port: u16, method: &str) -> String {
    let config = format!(
        "logoutput: {}\ninternal: 127.0.0.1 port = {port}\nexternal: 127.0.0.1\nsocksmethod: {method}\nclientmethod: none\n\
         user.privileged: root\nuser.unprivileged: nobody\n\
         client pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}\nsocks pass {{ from: 127.0.0.0/8 to: 127.0.0.0/8 }}\n",
        files.path(&format!("dante{port}.log"))
    );
    files.write(&format!("dante{port}.conf"), config)
}

fn dante(files: &Files) -> Daemon {
    let port = free_port();
    Daemon::start(port, "danted", &["-f", &dante_config(files, port, "none")])
}

/// Dante that asks for the password of a user of the system: of one that only it sees.
fn dante_with_password(files: &Files) -> Daemon {
    let port = free_port();
    let config = dante_config(files, port, "username");
    let users = "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/false\nme:x:60001:65534::/:/bin/false\n";
    let users = files.write("users", users);
    let groups = files.write("groups", "root:x:0:\nnogroup:x:65534:\n");
    let shadow = format!("me:{}:19000:0:99999:7:::\n", hashed_password());
    let shadow = files.write("shadow", format!("root:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n{shadow}"));
    let variables = [
        ("LD_PRELOAD", "libnss_wrapper.so"),
        ("NSS_WRAPPER_PASSWD", &users),
        ("NSS_WRAPPER_GROUP", &groups),
        ("NSS_WRAPPER_SHADOW", &shadow),
    ];
    Daemon::start_with(port, "danted", &["-f", &config], &variables)
}

fn hashed_password() -> String {
    let hashed = Command::new("openssl").args(["passwd", "-5", "hunter2"]).output().expect("openssl");
    String::from_utf8(hashed.stdout).expect("text").trim().to_owned()
}

/// Fetches `url` through `proxy`: outcome or kind of the error, and the body.
fn through(proxy: &str, url: &str, certificate: &str, runtime: &str) -> (String, String) {
    let ended = run(&[
        "fetch",
        url,
        "--proxy",
        proxy,
        "--cacert",
        certificate,
        "--runtime",
        runtime,
        "--retries",
        "0",
        "--body",
        "inline",
    ]);
    let record = ended.of(url);
    let text = ended.lines.concat() + &ended.stderr;
    assert!(!text.contains("hunter2") && !text.contains("wrong"), "no password is told: {text}");
    let outcome = match &record["error"]["kind"] {
        serde_json::Value::String(kind) => kind.clone(),
        _ => record["outcome"].as_str().expect("an outcome").to_owned(),
    };
    (outcome, record["body"].as_str().unwrap_or_default().to_owned())
}

// F2, F4, F6
#[test]
fn right_credentials_are_let_through_and_wrong_ones_are_told_apart() {
    let files = Files::new();
    let (_nginx, urls, certificate) = site(&files);
    let (squid, tinyproxy, microsocks, dante) = (squid(&files), tinyproxy(&files), microsocks(), dante(&files));
    let dante_with_password = dante_with_password(&files);
    for runtime in RUNTIMES {
        for url in &urls {
            let fetched = |scheme: &str, userinfo: &str, proxy: &Daemon| {
                through(&format!("{scheme}://{userinfo}127.0.0.1:{}", proxy.port), url, &certificate, runtime)
            };
            // The page shows the credentials that came to the site: none.
            let good = ("ok".to_owned(), "YnkgLg==".to_owned());
            let bad = ("proxy.auth_required".to_owned(), String::new());
            for (proxy, is_squid) in [(&squid, true), (&tinyproxy, false)] {
                assert_eq!(fetched("http", "me:hunter2@", proxy), good, "{url} by HTTP on {runtime}");
                for userinfo in ["me:wrong@", ""] {
                    let (outcome, body) = fetched("http", userinfo, proxy);
                    // To wrong ones tinyproxy says 401, which is what a site may say: it is an answer.
                    let is_answer = !is_squid && !userinfo.is_empty() && url.starts_with("http:");
                    let expected = if is_answer { "ok" } else { "proxy.auth_required" };
                    assert_eq!(outcome, expected, "{url} by HTTP on {runtime}");
                    assert_ne!(body, good.1);
                }
            }
            for scheme in ["socks5", "socks5h"] {
                for proxy in [&microsocks, &dante_with_password] {
                    assert_eq!(fetched(scheme, "me:hunter2@", proxy), good, "{url} by {scheme} on {runtime}");
                    assert_eq!(fetched(scheme, "me:wrong@", proxy), bad, "{url} by {scheme} on {runtime}");
                    assert_eq!(fetched(scheme, "", proxy), bad, "{url} by {scheme} on {runtime}");
                }
                assert_eq!(fetched(scheme, "", &dante), good, "{url} by {scheme} on {runtime}");
            }
            assert_eq!(fetched("socks4a", "", &dante), good, "{url} by socks4a on {runtime}");
        }
    }
}

// F1, F2, F9
#[test]
fn others_take_over_from_a_proxy_that_dies_in_the_middle() {
    let files = Files::new();
    let (_nginx, urls, certificate) = site(&files);
    for (runtime, scheme) in RUNTIMES.iter().flat_map(|runtime| [(*runtime, "socks5h"), (*runtime, "http")]) {
        let (mut dying, survivor) = match scheme {
            "http" => (squid(&files), tinyproxy(&files)),
            _ => (microsocks(), tinyproxy(&files)),
        };
        let list: String = (0..2_000).map(|n| format!("{}{n}\n", urls[n % 2])).collect();
        let list = files.write(&format!("{runtime}.{scheme}.urls"), list);
        let proxies = [
            format!("{scheme}://me:hunter2@127.0.0.1:{}", dying.port),
            format!("http://me:hunter2@127.0.0.1:{}", survivor.port),
        ];
        let mut running = Running::start(&[
            "fetch",
            "--input",
            &list,
            "--proxy",
            &proxies[0],
            "--proxy",
            &proxies[1],
            "--cacert",
            &certificate,
            "--runtime",
            runtime,
            "--concurrency",
            "20",
            "--per-host",
            "20",
        ]);
        let mut records: Vec<_> = (0..100).map(|_| running.next_record()).collect();
        dying.child.kill().expect("it lives");
        dying.child.wait().expect("it ends");
        let ended = running.finish();
        records.extend(ended.records);
        assert_eq!((ended.code, records.len()), (Some(0), 2_000), "{}", ended.stderr);
        let lost: Vec<_> = records.iter().filter(|record| record["outcome"] != "ok").collect();
        assert!(lost.is_empty(), "{} of 2,000: {:?}", lost.len(), lost.first());
        let survivor = format!("http://127.0.0.1:{}", survivor.port);
        let by_survivor = records.iter().filter(|record| record["proxy"] == survivor.as_str());
        assert!(by_survivor.count() > 1_000, "most come by the one that is left");
    }
}
