//! A whole healthy call: carrier, daemon and model. Beside each hostile peer one of these must keep relaying.

use super::carrier::{Carrier, FRAME_BYTES};
use super::daemon::{Daemon, Launch};
use super::model::{Connection, Model};
use super::{audio, base64};

/// Both ends of one established call.
pub struct Pair {
    pub carrier: Carrier,
    pub model: Connection,
    frames: usize,
}

impl Pair {
    /// A call on `path`, set up to the end. Must be the only call that is being set up.
    pub async fn new(daemon: &Daemon, model: &mut Model, path: &str) -> Self {
        let carrier = Carrier::dial(daemon, path).await;
        Self::with(carrier, model).await
    }

    /// The same over an upgraded carrier connection.
    pub async fn with(mut carrier: Carrier, model: &mut Model) -> Self {
        carrier.start().await;
        let mut model = model.accept().await;
        model.set_up().await;
        Self {
            carrier,
            model,
            frames: 0,
        }
    }

    /// One frame each way, byte for byte.
    pub async fn round_trip(&mut self) {
        self.frames += 1;
        let up = audio(self.frames, FRAME_BYTES);
        self.carrier.media(&up).await;
        assert_eq!(self.model.appended(up.len()).await, up);
        let down = base64(&audio(1_000 + self.frames, 3 * FRAME_BYTES));
        self.model.delta("item_pair", &down).await;
        assert_eq!(self.carrier.media_payload().await, down);
    }

    /// The carrier hangs up; both connections end in order.
    pub async fn hang_up(mut self) {
        self.carrier.stop().await;
        assert_eq!(self.model.closed().await, Some(1000));
        assert_eq!(self.carrier.closed().await, Some(1000));
    }
}

/// A daemon with one worker, a healthy call on it, and the model: where a hostile peer plays beside.
pub struct Stage {
    pub daemon: Daemon,
    pub model: Model,
    pub healthy: Pair,
}

impl Stage {
    pub async fn new() -> Self {
        Self::with(|launch| launch).await
    }

    /// The same with a daemon that is set up otherwise.
    pub async fn with(change: impl FnOnce(Launch) -> Launch) -> Self {
        let mut model = Model::plain().await;
        let daemon = change(Launch::serve(&model.url)).start().await;
        let healthy = Pair::new(&daemon, &mut model, "/media-stream/healthy").await;
        Self {
            daemon,
            model,
            healthy,
        }
    }

    /// Another call, set up.
    pub async fn pair(&mut self) -> Pair {
        Pair::new(&self.daemon, &mut self.model, "/media-stream/hostile").await
    }
}
