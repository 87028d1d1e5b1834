//! The front desk: one tokio-uring thread that accepts, upgrades, dials and hands established legs on.

use crate::bus::command::{DeskInbox, WorkerSender};
use crate::bus::directory::SharedDirectory;
use crate::bus::report::HttpSender;
use crate::config::Config;
use std::net::SocketAddr;
use std::sync::Arc;

/// A running desk.
#[derive(Debug)]
pub struct Desk {
    /// The bound addresses, ports filled in.
    pub addresses: Vec<SocketAddr>,
    /// Ends after `ToDesk::Stop`.
    pub thread: std::thread::JoinHandle<()>,
}

/// Binds the listeners (in the caller's thread, so that a busy port is an error here), then starts the desk's thread.
pub fn start(
    config: Arc<Config>,
    directory: SharedDirectory,
    inbox: DeskInbox,
    workers: Vec<WorkerSender>,
    http: HttpSender,
) -> std::io::Result<Desk> {
    let _ = (config, directory, inbox, workers, http);
    unimplemented!()
}
