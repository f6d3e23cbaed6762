//! Stopping, as a value that is passed in: the first signal asks for it, the second insists.
//! And SIGHUP, which asks for something else: what that is, is for others to say.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
pub use tokio_util::sync::CancellationToken as Stop;

/// The exit status after a second signal: 128 + SIGINT, as shells report it.
const INSISTED: i32 = 130;

/// Watches SIGTERM and SIGINT.
///
/// Returned by [`listen`]; polls nothing until it is run.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// Takes over SIGTERM and SIGINT from their default of killing the process.
///
/// # Errors
///
/// When the operating system refuses a handler.
pub fn listen() -> io::Result<Signals> {
    Ok(Signals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
    })
}

/// Watches SIGHUP.
pub struct Hangups(Signal);

/// Takes over SIGHUP from its default of killing the process.
///
/// # Errors
///
/// When the operating system refuses a handler.
pub fn hangups() -> io::Result<Hangups> {
    Ok(Hangups(signal(SignalKind::hangup())?))
}

impl Hangups {
    /// Waits for the next one; those that come while nobody waits are one.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            // The runtime is going: none will come.
            std::future::pending().await
        }
    }
}

impl Signals {
    /// Requests `stop` on the first signal and ends the process on the second.
    pub async fn request(mut self, stop: Stop) {
        self.next().await;
        tracing::info!("stopping: finishing what is in hand; a second signal ends it at once");
        stop.cancel();
        self.next().await;
        tracing::warn!("stopped at once; what was in hand stays pending for the next host");
        std::process::exit(INSISTED);
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
