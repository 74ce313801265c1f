//! Which sessions may be resumed: those with the same server, by the same way.

use std::fmt::Write as _;
use std::sync::Arc;

use rustls::NamedGroup;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls_pki_types::ServerName;

/// With whom a session is, beside the name of the server and the configuration: a proxy, or who listens on another port, must not
/// be able to take a session over, nor to tell that two ways have one client.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scope<'a> {
    pub(crate) port: u16,
    /// The proxy with its credential, also where it is the one that is spoken to.
    pub(crate) proxy: Option<&'a str>,
}

/// The sessions of one scope, in a cache of all. rustls keeps them by the name of the server alone; here that name stands for all
/// that must be equal.
#[derive(Debug)]
pub(super) struct Scoped {
    all: Arc<ClientSessionMemoryCache>,
    name: ServerName<'static>,
}

impl Scoped {
    /// `None` where rustls lacks the hash, and nothing is to be resumed.
    pub(super) fn new(all: &Arc<ClientSessionMemoryCache>, server: &ServerName<'_>, scope: Scope<'_>) -> Option<Self> {
        let Scope { port, proxy } = scope;
        // No part can be mistaken for another: a name has no NUL, a port has two bytes, and the proxy is the last.
        let mut parts = server.to_str().as_bytes().to_vec();
        parts.push(0);
        parts.extend_from_slice(&port.to_be_bytes());
        if let Some(proxy) = proxy {
            parts.push(1);
            parts.extend_from_slice(proxy.as_bytes());
        }
        let hash = TLS13_AES_128_GCM_SHA256.tls13()?.common.hash_provider.hash(&parts);
        let mut name = String::with_capacity(2 * hash.as_ref().len() + 1);
        for (at, byte) in hash.as_ref().iter().enumerate() {
            // A label has 63 bytes at most.
            if at == 16 {
                name.push('.');
            }
            write!(name, "{byte:02x}").ok()?;
        }
        let name = ServerName::try_from(format!("{name}.session")).ok()?;
        Some(Self { all: Arc::clone(all), name })
    }
}

impl ClientSessionStore for Scoped {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.all.set_kx_hint(self.name.clone(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.all.kx_hint(&self.name)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.all.set_tls12_session(self.name.clone(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.all.tls12_session(&self.name)
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.all.remove_tls12_session(&self.name);
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.all.insert_tls13_ticket(self.name.clone(), value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.all.take_tls13_ticket(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // D9
    #[test]
    fn each_part_of_a_scope_counts() {
        let all = Arc::new(ClientSessionMemoryCache::new(8));
        let name = |server: &'static str, port, proxy| {
            let server = ServerName::try_from(server).expect("a name");
            Scoped::new(&all, &server, Scope { port, proxy }).expect("it has the hash").name
        };
        let names = [
            name("a.test", 443, None),
            name("b.test", 443, None),
            name("a.test", 8443, None),
            name("a.test", 443, Some("")),
            name("a.test", 443, Some("http://p.test/")),
            name("a.test", 443, Some("http://me:pw@p.test/")),
            name("192.0.2.1", 443, None),
        ];
        for (at, one) in names.iter().enumerate() {
            assert!(names.iter().skip(at + 1).all(|other| one != other), "{one:?}");
        }
        assert_eq!(names[0], name("a.test", 443, None));
    }
}
