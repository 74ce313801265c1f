//! [`Work`]: what a client is asked to do, the same for each of them.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// So many bytes drip that none of them ends before the run.
const DRIPPING: &str = "/drip/100000";
/// URLs that are made before the clock runs; requests go round them.
const URLS: u64 = 1 << 12;

/// Requests to a load server, and how they are made.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Work {
    /// Port of the server on each of its addresses.
    #[arg(long)]
    pub(crate) port: u16,
    /// Its addresses, from 127.0.0.1 upwards.
    #[arg(long, default_value_t = 1)]
    pub(crate) addresses: u8,
    /// Path to ask for; a number is added to one that ends with a slash.
    #[arg(long, default_value = "/")]
    pub(crate) path: String,
    /// Requests in all.
    #[arg(long)]
    pub(crate) requests: u64,
    /// Requests in flight; with a rate, the most.
    #[arg(long)]
    pub(crate) concurrency: u32,
    /// Requests that are started in a second, whether or not those before them have been answered. Without it each answer
    /// starts the next.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// A new connection for each request.
    #[arg(long)]
    pub(crate) fresh: bool,
    /// File with the certificate of a server that speaks TLS.
    #[arg(long)]
    pub(crate) certificate: Option<PathBuf>,
    /// Tick beside the work, and say how late; clients without a Tokio or smol have nothing that ticks.
    #[arg(long)]
    pub(crate) ticker: bool,
    /// Requests to /drip/<n> that are in flight beside the others from the beginning to the end, on connections of their own.
    #[arg(long, default_value_t = 0)]
    pub(crate) dripping: u32,
    /// Each of those goes through a proxy whose answer to CONNECT drips.
    #[arg(long)]
    pub(crate) slow_proxies: bool,
    /// Find the links of each page, on a thread of the client's own pool. For crawls of tidegate only.
    #[arg(long)]
    pub(crate) parse: bool,
    /// Cores that the client has, from the first.
    #[arg(long, default_value_t = 1)]
    pub(crate) cores: usize,
    /// Follow the links of the page at the path, as far as they are in its folder; the requests are as many as there are.
    #[arg(long)]
    pub(crate) follow: bool,
    /// How long the connections are kept when all is done, in milliseconds, before memory is looked at.
    #[arg(long, default_value_t = 300)]
    pub(crate) settle_ms: u64,
}

impl Work {
    /// The arguments that give it to another process.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let Self {
            port,
            addresses,
            path,
            requests,
            concurrency,
            rate,
            fresh,
            certificate,
            ticker,
            dripping,
            slow_proxies,
            parse,
            cores,
            follow,
            settle_ms,
        } = self;
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |name: &str, value: Option<OsString>| {
            if let Some(value) = value {
                arguments.extend([OsString::from(format!("--{name}")), value]);
            }
        };
        add("port", Some(port.to_string().into()));
        add("addresses", Some(addresses.to_string().into()));
        add("path", Some(path.into()));
        add("requests", Some(requests.to_string().into()));
        add("concurrency", Some(concurrency.to_string().into()));
        add("rate", rate.map(|rate| rate.to_string().into()));
        add("certificate", certificate.clone().map(PathBuf::into_os_string));
        add("dripping", Some(dripping.to_string().into()));
        add("settle-ms", Some(settle_ms.to_string().into()));
        // Programs in other languages need not know it.
        add("cores", (*cores > 1).then(|| cores.to_string().into()));
        let switches = [
            (*fresh, "--fresh"),
            (*ticker, "--ticker"),
            (*slow_proxies, "--slow-proxies"),
            (*parse, "--parse"),
            (*follow, "--follow"),
        ];
        arguments.extend(switches.iter().filter(|(on, _)| *on).map(|(_, name)| name.into()));
        arguments
    }

    /// The URLs that requests go round.
    pub(crate) fn urls(&self) -> Vec<String> {
        (0..URLS).map(|n| self.url(n, &self.path)).collect()
    }

    /// The URL of request `n`, whose address is the one whose turn it is.
    pub(crate) fn url(&self, n: u64, path: &str) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        let number = if path.ends_with('/') { n.to_string() } else { String::new() };
        format!("{scheme}://{}{path}{number}", self.address(n))
    }

    /// The URL of dripping request `n`.
    pub(crate) fn dripping_url(&self, n: u64) -> String {
        let url = self.url(n, DRIPPING);
        if self.slow_proxies { url.replacen("http:", "https:", 1) } else { url }
    }

    /// The proxy that a URL goes through, where it does: the server itself.
    pub(crate) fn proxy(&self, url: &str) -> Option<String> {
        let behind = url.strip_prefix("https://").filter(|_| self.slow_proxies)?;
        let authority = behind.split_once('/').map_or(behind, |(authority, _)| authority);
        Some(format!("http://{authority}"))
    }

    /// The URL that a crawl begins with, and what all its URLs begin with.
    pub(crate) fn seed(&self) -> (String, String) {
        let seed = self.url(0, &self.path);
        let folder = seed.rfind('/').map_or(0, |slash| slash + 1);
        let scope = seed[..folder].to_owned();
        (seed, scope)
    }

    /// The address that request `n` goes to.
    pub(crate) fn address(&self, n: u64) -> SocketAddr {
        let last = 1 + (n % u64::from(self.addresses.max(1))) as u8;
        (IpAddr::from(Ipv4Addr::new(127, 0, 0, last)), self.port).into()
    }

    /// The certificate of the server, where it speaks TLS.
    pub(crate) fn pem(&self) -> std::io::Result<Option<String>> {
        self.certificate.as_ref().map(std::fs::read_to_string).transpose()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        work: Work,
    }

    #[test]
    fn what_is_told_is_what_is_understood() {
        let told = "a --port 80 --addresses 3 --path /gate/ --requests 9 --concurrency 4 --rate 2.5 --certificate x.pem \
                    --dripping 7 --settle-ms 1 --cores 2 --fresh --ticker --slow-proxies --parse --follow";
        let work = Args::parse_from(told.split_whitespace()).work;
        let again = Args::parse_from([OsString::from("a")].into_iter().chain(work.arguments())).work;
        assert_eq!(format!("{work:?}"), format!("{again:?}"));
        assert_eq!(again.arguments().join(" ".as_ref()).to_string_lossy(), told[2..].replace("  ", ""));
    }

    #[test]
    fn urls_take_turns_over_the_addresses() {
        let told = "a --port 80 --addresses 2 --requests 3 --concurrency 1";
        let work = Args::parse_from(told.split_whitespace()).work;
        assert_eq!(work.urls()[..3], ["http://127.0.0.1:80/0", "http://127.0.0.2:80/1", "http://127.0.0.1:80/2"]);
        assert_eq!(work.url(4, "/drip/9"), "http://127.0.0.1:80/drip/9");
    }

    #[test]
    fn only_what_drips_goes_through_a_proxy() {
        let told = "a --port 80 --addresses 2 --requests 3 --concurrency 1";
        let mut work = Args::parse_from(told.split_whitespace()).work;
        assert_eq!(work.dripping_url(1), "http://127.0.0.2:80/drip/100000");
        assert_eq!(work.proxy(&work.dripping_url(1)), None);
        work.slow_proxies = true;
        assert_eq!(work.dripping_url(1), "https://127.0.0.2:80/drip/100000");
        assert_eq!(work.proxy(&work.dripping_url(1)).as_deref(), Some("http://127.0.0.2:80"));
        assert_eq!(work.proxy(&work.url(1, "/")), None);
    }
}
