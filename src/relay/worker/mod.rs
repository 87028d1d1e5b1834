//! A worker: one thread, one ring, its calls from hand-over to end. No async.
