//! Accepting connections by hand.

use std::net::SocketAddr;
use std::sync::Weak;
use std::task::Poll;

use super::SimStream;
use crate::sim::task::Wait;
use crate::sim::world::World;
use crate::sync::keep_waker;

/// Accepts connections at one address. Dropping it ends that; what it accepted goes on. Made by [`Net::listen`](super::Net::listen).
///
/// ```
/// use tidegate::sim::Sim;
/// let sim = Sim::new(1);
/// let mut listener = sim.net().listen(([192, 0, 2, 1], 80));
/// sim.spawn(async move {
///     loop {
///         let mut stream = listener.accept().await;
///         let asked = stream.read().await.expect("open");
///         stream.write_all(&asked).await.expect("open");
///     }
/// });
/// ```
pub struct SimListener {
    world: Weak<World>,
    addr: SocketAddr,
}

impl SimListener {
    pub(super) fn new(world: Weak<World>, addr: SocketAddr) -> Self {
        Self { world, addr }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next connection.
    ///
    /// # Cancel safety
    /// No connection is lost when the future is dropped.
    pub async fn accept(&mut self) -> SimStream {
        std::future::poll_fn(|cx| {
            let Some(world) = self.world.upgrade() else { return Poll::Pending };
            let mut state = world.lock();
            let Some(backlog) = state.net.listeners.get_mut(&self.addr) else { return Poll::Pending };
            if let Some(stream) = backlog.waiting.pop_front() {
                return Poll::Ready(stream);
            }
            let replaced = keep_waker(&mut backlog.waker, cx.waker());
            state.waits_for(Wait::Accept(self.addr));
            drop(state);
            drop(replaced);
            Poll::Pending
        })
        .await
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        if let Some(world) = self.world.upgrade() {
            let backlog = world.lock().net.listeners.remove(&self.addr);
            drop(backlog);
        }
    }
}

impl std::fmt::Debug for SimListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimListener").field("addr", &self.addr).finish_non_exhaustive()
    }
}
