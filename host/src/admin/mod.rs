//! Health, figures and status over HTTP, for probes, scrapers and people.
//!
//! Whoever can connect is answered, and can change nothing. What there is to tell is the host's
//! roster; what becomes of it is for others: a probe, a scraper, a person.

mod asked;
mod connections;
mod exposition;
mod metrics;
mod pages;
mod probe;
mod readiness;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use probe::{Answer, ProbeError, ask};

use crate::host::Roster;
use crate::manifest::{AdminAddress, HttpHost, Manifest};
use crate::shutdown::Stop;
use pages::Pages;

/// Where the process says that it is alive.
pub const LIVE: &str = "/livez";

/// Where it says whether it is ready.
pub const READY: &str = "/readyz";

/// How long looking up the name to listen on may take.
const LOOK_UP: Duration = Duration::from_secs(5);

/// Why there is no admin server.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// It cannot listen where the manifest says.
    #[error(
        "{}:{}: host.admin: cannot listen on {address}; choose an address of this machine and \
         a port that is free, or \"off\"", manifest.display(), address.line
    )]
    Listen {
        /// The manifest.
        manifest: PathBuf,
        /// Where it says.
        address: AdminAddress,
        /// What the system says.
        source: io::Error,
    },
}

/// An admin server that has its port, and answers nobody yet.
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

impl Admin {
    /// Listens where a manifest says; `None` where it says nothing.
    ///
    /// # Errors
    ///
    /// When the port is taken, or the address is not this machine's.
    pub async fn open(manifest: &Manifest) -> Result<Option<Self>, AdminError> {
        let Some(wanted) = &manifest.host.admin else { return Ok(None) };
        let opened = async {
            let listener = listen(wanted).await?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        let failed = |source| AdminError::Listen {
            manifest: manifest.path.clone(),
            address: wanted.clone(),
            source,
        };
        opened.await.map(Some).map_err(failed)
    }

    /// Answers from now on. Not ready once a stop is requested; answers until [`Answering::finished`].
    pub fn serve(self, roster: Roster, stopping: Stop) -> Answering {
        tracing::info!(address = %self.address, "admin server listening");
        let end = Stop::new();
        let pages = Pages::new(roster, stopping);
        let task = tokio::spawn(connections::accept(self.listener, pages, end.clone()));
        Answering { task, end }
    }
}

async fn listen(wanted: &AdminAddress) -> io::Result<TcpListener> {
    match &wanted.host {
        HttpHost::Address(address) => TcpListener::bind((*address, wanted.port)).await,
        HttpHost::Name(name) => {
            let bound = timeout(LOOK_UP, TcpListener::bind((name.as_str(), wanted.port))).await;
            bound.unwrap_or_else(|late| Err(late.into()))
        }
    }
}

/// An admin server at work; ends with this.
pub struct Answering {
    task: JoinHandle<()>,
    end: Stop,
}

impl Answering {
    /// Has it answer no more, and waits for that.
    pub async fn finished(mut self) {
        self.end.cancel();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.task.abort();
    }
}
