//! Bad upgrades leave no descriptor behind. Counted in a process of its own, where nobody else opens any.

use super::*;

const BAD_UPGRADES: usize = 10_000;

#[test]
fn ten_thousand_bad_upgrades_leave_no_descriptor() {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "relay::desk::tests::leak::counted_in_a_child",
            "--ignored",
            "--nocapture",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&child.stderr)
    );
    assert!(text.contains("1 passed"), "{text}");
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
#[ignore = "run in a process of its own by ten_thousand_bad_upgrades_leave_no_descriptor"]
async fn counted_in_a_child() {
    let house = House::new(loopback_config());
    // One of each first, so that whatever is made once is made.
    bad_upgrades(&house, 10).await;
    let before = settled(&house).await;
    bad_upgrades(&house, BAD_UPGRADES).await;
    let after = settled(&house).await;
    // The connection asked with may still be on its way out; a leak of any kind would be 2,500.
    assert!(after <= before + 1, "{before} before, {after} after");
}

async fn bad_upgrades(house: &House, count: usize) {
    for i in 0..count {
        match i % 4 {
            0 => assert!(house.ask(&get("/nowhere")).await.contains(" 404 ")),
            1 => assert!(house.ask(&get("/media-stream/")).await.contains(" 400 ")),
            2 => assert!(house.ask("rubbish\r\n\r\n").await.contains(" 400 ")),
            // Goes away in the middle of its head.
            _ => house
                .connect()
                .await
                .write_all(b"GET /streams HT")
                .await
                .unwrap(),
        }
    }
}

/// The count once the desk has seen every end: the same three times with turns of the desk between.
async fn settled(house: &House) -> usize {
    let mut last = (0, 0);
    loop {
        assert!(house.ask(&get("/nowhere")).await.contains(" 404 "));
        let now = descriptors();
        last = if last.0 == now {
            (now, last.1 + 1)
        } else {
            (now, 0)
        };
        if last.1 == 20 {
            return now;
        }
    }
}
