//! The conformance suite on the simulated runtime, in each order of polling: a simulator that is not itself checked proves
//! nothing.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tidegate::conformance::{Capabilities, Harness, Player, Script, Served};
use tidegate::rt::Runtime;
use tidegate::sim::{Scheduling, Sim, SimStream};

struct Simulated {
    sim: Sim,
    next_port: AtomicU16,
}

impl Simulated {
    fn new(scheduling: Scheduling, seed: u64) -> Self {
        Self { sim: Sim::builder().scheduling(scheduling).seed(seed).build(), next_port: AtomicU16::new(1024) }
    }
}

impl Harness for Simulated {
    fn runtime(&self) -> Runtime {
        self.sim.runtime()
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::all();
        capabilities.threads = false;
        capabilities.sockets = false;
        // The world ends with the handle on it, and not with the runtime.
        capabilities.owned = false;
        capabilities
    }

    fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.sim.block_on(future)
    }

    fn serve(&self, script: Script) -> Served {
        let mut listener = self.sim.net().listen(self.unused_addr());
        let (served, reporter) = Served::new(listener.addr(), &script);
        let runtime = self.runtime();
        self.sim.spawn(async move {
            for (number, steps) in script.connections.into_iter().enumerate() {
                let (stream, reporter) = (listener.accept().await, reporter.clone());
                runtime.spawn(async move {
                    let (client, mut player) = (stream.peer(), Player::new(steps));
                    player.play(stream, SimStream::reset).await;
                    reporter.report(player.outcome(number, client));
                });
            }
        });
        served
    }

    fn unused_addr(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.next_port.fetch_add(1, Ordering::Relaxed))
    }

    fn work(&self, time: Duration) {
        self.sim.spend(time);
    }

    fn end(&self) {
        self.sim.end();
    }
}

tidegate::conformance_tests! {
    fifo: Simulated::new(Scheduling::Fifo, 1);
    lifo: Simulated::new(Scheduling::Lifo, 1);
    random_1: Simulated::new(Scheduling::Random, 1);
    random_2: Simulated::new(Scheduling::Random, 2);
    random_3: Simulated::new(Scheduling::Random, 3);
}

/// What is not asked of it, so that nothing stops being asked unseen.
#[test]
fn cases_that_do_not_apply() {
    let expected = [
        "works_on_a_foreign_thread",
        "from_a_foreign_thread",
        "the_last_clone_may_be_dropped_in_a_task",
        "what_comes_meanwhile_is_not_lost",
        "dropped_while_connecting",
        "options_are_set",
        "source_address",
        "descriptors_close_on_exec",
    ];
    assert_eq!(Simulated::new(Scheduling::Fifo, 1).capabilities().left_out(), expected);
}
