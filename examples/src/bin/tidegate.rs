//! The program `tidegate`: see [`tidegate_examples::cli`].

fn main() -> std::process::ExitCode {
    tidegate_examples::cli::main()
}
