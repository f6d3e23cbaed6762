//! argv in, exit status out.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The redis crate brings rustls without a provider and panics at the first
    // handshake when none is installed. A second installation is refused, harmlessly.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tidegate::cli::main()
}
