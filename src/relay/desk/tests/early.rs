//! Connections that are dialled before their call asks, and those that are kept warm: what is handed to which worker,
//! and what becomes of it when things go wrong.

use super::dial::{SLOT, dial, dialling, refusing};
use super::*;
use crate::base::limit::TICKET_LIFE;
use crate::bus::command::IdleEnd;
use crate::call::Leg;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

fn id(text: &str) -> CallId {
    CallId::new(text).unwrap()
}

async fn model() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// A connection that has upgraded.
async fn upgraded(
    listener: &TcpListener,
) -> tokio_tungstenite::WebSocketStream<tokio::net::TcpStream> {
    let (socket, _) = listener.accept().await.unwrap();
    tokio_tungstenite::accept_async(socket).await.unwrap()
}

impl House {
    async fn order(&self, order: ToDesk) {
        self.orders.send(order).await.unwrap();
    }

    /// Everything ordered before has been begun: the desk's tasks take turns.
    async fn turn(&self) {
        for _ in 0..3 {
            let (answer, answered) = oneshot::channel();
            let order = ToDesk::Admit {
                head: b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
                peer: None,
                request_id: String::new(),
                answer,
            };
            self.order(order).await;
            answered.await.unwrap();
        }
    }

    /// The next order to this worker must be an idle connection: for whom, and how long.
    async fn idle(&self, worker: usize) -> (Option<CallId>, Duration, Established) {
        match self.workers[worker].next().await {
            ToWorker::Idle {
                upstream,
                call_id,
                life,
                ..
            } => (call_id, life, *upstream),
            other => panic!("{other:?}"),
        }
    }

    async fn dropped(&self, worker: usize) -> Option<CallId> {
        match self.workers[worker].next().await {
            ToWorker::DropIdle { call_id } => call_id,
            other => panic!("{other:?}"),
        }
    }
}

fn dial_order() -> ToDesk {
    ToDesk::Dial {
        worker: WorkerId(1),
        slot: SLOT,
        call_id: id("c"),
        leg: Leg::Realtime,
        dial: 1,
        once: false,
    }
}

fn predial(call: &str) -> ToDesk {
    ToDesk::Predial { call_id: id(call) }
}

#[tokio::test]
async fn an_announced_call_is_placed_where_its_connection_is() {
    let (listener, url) = model().await;
    let house = House::new(dialling(url, &[]));
    house.expect("a", "CA1");
    house.expect("b", "CA2");
    let mut held = Vec::new();
    for (call, worker) in [("a", 0), ("b", 1)] {
        house.order(predial(call)).await;
        held.push(upgraded(&listener).await);
        let (call_id, life, upstream) = house.idle(worker).await;
        assert_eq!((call_id, life), (Some(id(call)), TICKET_LIFE));
        drop(upstream);
    }
    // The second one's stream comes first: by load alone it would be the first worker's.
    let mut client = house.connect().await;
    let request = get("/media-stream/b");
    client.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(house.workers[1].adopted().await.0, id("b"));
    // A stranger goes where nobody is expected.
    let over = ToDesk::IdleOver {
        worker: WorkerId(0),
        endpoint: 0,
        taken_by: None,
        call_id: Some(id("a")),
        how: IdleEnd::Lost,
        age: Duration::ZERO,
    };
    house.order(over).await;
    house.turn().await;
    let mut client = house.connect().await;
    let request = get("/media-stream/x");
    client.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(house.workers[0].adopted().await.0, id("x"));
}

#[tokio::test]
async fn a_call_that_asks_while_its_connection_is_made_gets_that_one() {
    let (listener, url) = model().await;
    let house = House::new(dialling(url, &[]));
    house.order(predial("c")).await;
    let (socket, _) = listener.accept().await.unwrap();
    // A second connection would find nobody.
    drop(listener);
    house.order(dial_order()).await;
    house.turn().await;
    let _model = tokio_tungstenite::accept_async(socket).await.unwrap();
    match house.workers[1].next().await {
        ToWorker::Upstream { slot, outcome, .. } => {
            assert_eq!(slot, SLOT);
            outcome.unwrap();
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_call_whose_connection_could_not_be_made_dials_for_itself() {
    let (listener, url) = model().await;
    let house = House::new(dialling(url, &["sk-only"]));
    house.order(predial("c")).await;
    refusing(&listener, &["404 Not Found|{}"]).await;
    let (outcome, _) = tokio::join!(dial(&house), upgraded(&listener));
    outcome.unwrap();
}

#[tokio::test]
async fn a_connection_that_takes_too_long_is_given_up_for_a_fresh_one() {
    let (listener, url) = model().await;
    let house = House::new(dialling(url, &[]));
    house.order(predial("c")).await;
    let (mut silent, _) = listener.accept().await.unwrap();
    read_head(&mut silent).await;
    let (outcome, _) = tokio::join!(dial(&house), upgraded(&listener));
    outcome.unwrap();
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_call_that_asks_in_the_moment_it_is_provided_for_is_not_dialled_for() {
    let (listener, url) = model().await;
    let house = House::new(dialling(url, &[]));
    house.order(predial("c")).await;
    let _model = upgraded(&listener).await;
    let (_, _, _upstream) = house.idle(0).await;
    let mut asked = dial_order();
    if let ToDesk::Dial { worker, .. } = &mut asked {
        *worker = WorkerId(0);
    }
    // The worker asked, found the connection, and said so: the desk reads both at once.
    let over = ToDesk::IdleOver {
        worker: WorkerId(0),
        endpoint: 0,
        taken_by: None,
        call_id: Some(id("c")),
        how: IdleEnd::Adopted,
        age: Duration::ZERO,
    };
    house.order(asked).await;
    house.order(over).await;
    house.turn().await;
    // So the next thing that the worker hears of is another call's connection.
    house.order(predial("d")).await;
    let _model = upgraded(&listener).await;
    assert_eq!(house.idle(0).await.0, Some(id("d")));
}

#[tokio::test]
async fn a_call_that_is_cancelled_while_it_waits_leaves_nothing_behind() {
    let (listener, url) = model().await;
    let house = House::new(dialling(url, &[]));
    house.order(predial("c")).await;
    let (mut silent, _) = listener.accept().await.unwrap();
    read_head(&mut silent).await;
    house.order(dial_order()).await;
    house.turn().await;
    let cancel = ToDesk::CancelDial {
        worker: WorkerId(1),
        slot: SLOT,
    };
    house.order(cancel).await;
    // Within its time, since somebody ended it.
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    // The next call of this id is dialled for anew, and its answer is the first that the worker gets.
    let (outcome, _) = tokio::join!(dial(&house), upgraded(&listener));
    outcome.unwrap();
}

#[tokio::test]
async fn a_call_that_ends_first_takes_its_connection_with_it() {
    let (listener, url) = model().await;
    let house = House::new(dialling(url, &[]));
    house.order(predial("a")).await;
    let _model = upgraded(&listener).await;
    let _upstream = house.idle(0).await;
    let ended = |call| ToDesk::Ended {
        worker: WorkerId(0),
        call_id: id(call),
    };
    house.order(ended("a")).await;
    assert_eq!(house.dropped(0).await, Some(id("a")));
    // The same for one that is still dialled.
    house.order(predial("b")).await;
    let (mut silent, _) = listener.accept().await.unwrap();
    read_head(&mut silent).await;
    house.order(ToDesk::Forget { call_id: id("b") }).await;
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_drain_closes_and_dials_nothing_for_announced_calls() {
    let (listener, url) = model().await;
    let house = House::new(dialling(url, &[]));
    house.order(predial("a")).await;
    let _model = upgraded(&listener).await;
    let _upstream = house.idle(0).await;
    house.order(predial("b")).await;
    let (mut silent, _) = listener.accept().await.unwrap();
    read_head(&mut silent).await;
    house.order(ToDesk::Drain).await;
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(house.dropped(0).await, None);
    assert_eq!(house.dropped(1).await, None);
    house.order(predial("c")).await;
    house.turn().await;
    // A dial of a live call is the only one that comes.
    let (outcome, _) = tokio::join!(dial(&house), upgraded(&listener));
    outcome.unwrap();
}

fn warm(url: String, size: usize) -> Config {
    let mut config = dialling(url, &["sk-a"]);
    config.realtime.warm_pool = size;
    config.realtime.warm_max_age = Duration::from_secs(80);
    config
}

#[tokio::test]
async fn every_worker_s_pool_is_filled_and_filled_again_until_the_drain() {
    let (listener, url) = model().await;
    let house = House::new(warm(url, 2));
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(upgraded(&listener).await);
    }
    for worker in [0, 1, 0, 1] {
        let (call_id, life, _upstream) = house.idle(worker).await;
        assert_eq!(call_id, None);
        assert!((70..=80).contains(&life.as_secs()), "{life:?}");
    }
    for how in [IdleEnd::Adopted, IdleEnd::Expired] {
        let over = ToDesk::IdleOver {
            worker: WorkerId(1),
            endpoint: 0,
            taken_by: None,
            call_id: None,
            how,
            age: Duration::ZERO,
        };
        house.order(over).await;
        held.push(upgraded(&listener).await);
        let _upstream = house.idle(1).await;
    }
    house.order(ToDesk::Drain).await;
    assert_eq!(house.dropped(0).await, None);
    assert_eq!(house.dropped(1).await, None);
    let over = ToDesk::IdleOver {
        worker: WorkerId(1),
        endpoint: 0,
        taken_by: None,
        call_id: None,
        how: IdleEnd::Drained,
        age: Duration::ZERO,
    };
    house.order(over).await;
    house.turn().await;
    // A call's dial is the only one that comes.
    let (outcome, _) = tokio::join!(dial(&house), upgraded(&listener));
    outcome.unwrap();
}

#[tokio::test]
async fn a_refused_key_stops_the_pool_until_a_reload() {
    let (listener, url) = model().await;
    let mut config = warm(url, 1);
    config.relay.workers = 1;
    let house = House::new(config);
    assert_eq!(refusing(&listener, &["401 No|{}"]).await, ["sk-a"]);
    // Once it is known to be refused, a reload begins anew; before, it changes nothing.
    let reload = async {
        loop {
            house.order(ToDesk::ReloadTls).await;
            house.turn().await;
        }
    };
    tokio::select! {
        () = reload => {}
        _model = upgraded(&listener) => {}
    }
    assert_eq!(house.idle(0).await.0, None);
}
