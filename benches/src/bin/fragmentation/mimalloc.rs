//! The churn of bodies with mimalloc.

mod churn;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), churn::Failure> {
    churn::run("mimalloc")
}
