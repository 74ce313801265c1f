//! The churn of bodies with the allocator of the system.

mod churn;

fn main() -> Result<(), churn::Failure> {
    churn::run("system")
}
