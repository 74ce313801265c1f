//! What a panic says, without what it threw.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The text of a panic. Its payload may panic again when it is dropped, which is contained as well.
pub(crate) fn panic_message(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("a panic without a message").to_owned();
    if let Err(another) = catch_unwind(AssertUnwindSafe(move || drop(panic))) {
        std::mem::forget(another);
    }
    text
}
