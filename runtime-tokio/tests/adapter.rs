//! What only this adapter must do; the rest is in the conformance suite.

use std::net::TcpListener;

// K5
#[test]
fn after_the_end_what_needs_a_reactor_says_so() {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("descriptors");
    let runtime = tidegate_tokio::from_handle(tokio.handle().clone());
    drop(tokio);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    assert!(futures::executor::block_on(runtime.tcp().connect(addr, &Default::default())).is_err());
}
