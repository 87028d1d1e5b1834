//! Labels are distinct, counts add up, close codes follow from reasons.

use super::*;

#[test]
fn every_drop_reason_stands_at_its_own_place_with_its_own_label() {
    let mut labels = std::collections::BTreeSet::new();
    for (i, reason) in Drop::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, i);
        assert!(labels.insert(reason.label()));
    }
}

#[test]
fn violations_have_labels_of_their_own_and_are_added_up() {
    let distinct: std::collections::BTreeSet<_> = VIOLATIONS.into_iter().collect();
    assert_eq!(distinct.len(), VIOLATIONS.len());
    let mut stats = Stats::default();
    for label in VIOLATIONS {
        stats.violation(Leg::Carrier, label);
    }
    stats.violation(Leg::Realtime, MALFORMED);
    let mut sum = stats.clone();
    sum.add(&stats);
    assert_eq!(sum.violations[0], [2; VIOLATIONS.len()]);
    assert_eq!(sum.violations[1].iter().sum::<u64>(), 2);
}

#[test]
fn the_model_is_told_a_normal_end_unless_it_is_at_fault_or_we_stop() {
    assert_eq!(EndReason::CallerHungUp.close_code(Leg::Realtime), 1000);
    assert_eq!(EndReason::NotAuthorized.close_code(Leg::Realtime), 1000);
    assert_eq!(EndReason::RealtimeProtocol.close_code(Leg::Realtime), 1002);
    assert_eq!(EndReason::Drained.close_code(Leg::Realtime), 1001);
    assert_eq!(EndReason::Internal.close_code(Leg::Carrier), 1011);
    assert_eq!(EndReason::RealtimeLost.close_code(Leg::Carrier), 1011);
    assert_eq!(EndReason::UnsupportedMedia.close_code(Leg::Carrier), 1003);
    assert_eq!(EndReason::NotAuthorized.close_code(Leg::Carrier), 1008);
}
