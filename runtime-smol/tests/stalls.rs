//! Who blocks the loop is named, over real sockets.

#[path = "../../runtime-tokio/tests/common/stalls.rs"]
mod stalls;

const TWO: std::num::NonZeroUsize = std::num::NonZeroUsize::MIN.saturating_add(1);

// H7
#[test]
fn a_hook_that_blocks_is_named_with_its_url() {
    stalls::a_hook_that_blocks_is_named(tidegate_smol::dedicated().expect("a thread"));
    stalls::a_hook_that_blocks_is_named(tidegate_smol::runtime(TWO).expect("two threads"));
}

// H7
#[test]
fn a_sink_that_blocks_is_named_with_its_url() {
    stalls::a_sink_that_blocks_is_named(tidegate_smol::dedicated().expect("a thread"));
    stalls::a_sink_that_blocks_is_named(tidegate_smol::runtime(TWO).expect("two threads"));
}
