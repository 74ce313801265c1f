//! The churn of bodies with jemalloc.

mod churn;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> Result<(), churn::Failure> {
    churn::run("jemalloc")
}
