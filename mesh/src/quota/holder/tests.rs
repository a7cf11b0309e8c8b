use super::*;
use crate::model::Namespace;

const T: Duration = SHARE_TTL;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn share(epoch: u64, rate: f64, least: f64, least_since: u64) -> Arc<TenantShare> {
    Arc::new(TenantShare {
        tenant: TenantId::parse("acme").expect("valid"),
        namespaces: std::iter::once(Namespace::parse("shop").expect("valid")).collect(),
        rate,
        burst: rate,
        proxies: 1,
        epoch,
        least,
        least_since,
        floor: 1.0,
    })
}

fn confirmed(epoch: u64, member: u64, until: Duration) -> Confirmed {
    Confirmed {
        tenant: TenantId::parse("acme").expect("valid"),
        incarnation: Incarnation(7),
        epoch,
        member,
        until,
    }
}

fn holder(epoch: u64, rate: f64) -> Holder {
    let mut holder = Holder::default();
    holder.share(Some(&share(epoch, rate, rate, epoch)), Incarnation(7), s(0));
    holder
}

fn rate(holder: &Holder, now: Duration) -> f64 {
    let allowance = holder.allowance(now).expect("limited");
    if now < allowance.until {
        allowance.rate
    } else {
        allowance.floor
    }
}

#[test]
fn a_share_from_disk_is_worth_its_floor_until_it_is_confirmed_and_a_while_after() {
    let mut holder = holder(5, 100.0);
    assert_eq!(rate(&holder, s(0)), 1.0);
    assert_eq!(rate(&holder, s(3600)), 1.0, "time alone confirms nothing");
    holder.confirm(confirmed(5, 1, s(3600) + T), s(3600));
    assert_eq!(rate(&holder, s(3600)), 1.0, "others may still spend its place");
    holder.confirm(confirmed(5, 1, s(3609) + T), s(3609));
    assert_eq!(rate(&holder, s(3600) + T), 100.0);
    assert_eq!(rate(&holder, s(3609) + T), 1.0, "and without news it ends");
}

#[test]
fn a_smaller_share_counts_at_once_and_a_larger_one_later() {
    let mut holder = holder(5, 100.0);
    for second in 0..=30 {
        holder.confirm(confirmed(5, 1, s(second) + T), s(second));
    }
    holder.share(Some(&share(6, 40.0, 40.0, 5)), Incarnation(7), s(30));
    assert_eq!(rate(&holder, s(30)), 40.0);
    holder.share(Some(&share(7, 80.0, 40.0, 5)), Incarnation(7), s(31));
    holder.confirm(confirmed(7, 1, s(38) + T), s(38));
    assert_eq!(rate(&holder, s(31) + T - s(1)), 40.0);
    assert_eq!(rate(&holder, s(31) + T), 80.0);
}

#[test]
fn of_epochs_that_were_missed_the_least_counts_and_unknown_ones_count_as_nothing() {
    let settled = || {
        let mut holder = holder(5, 100.0);
        for second in 0..=30 {
            holder.confirm(confirmed(5, 1, s(second) + T), s(second));
        }
        holder
    };
    let mut missed = settled();
    missed.share(Some(&share(9, 100.0, 20.0, 4)), Incarnation(7), s(30));
    assert_eq!(rate(&missed, s(30)), 20.0);
    let mut unknown = settled();
    unknown.share(Some(&share(9, 100.0, 90.0, 6)), Incarnation(7), s(30));
    unknown.confirm(confirmed(9, 1, s(31) + T), s(31));
    assert_eq!(rate(&unknown, s(31)), 1.0);
    let mut restored = settled();
    restored.share(Some(&share(9, 100.0, 100.0, 5)), Incarnation(8), s(30));
    restored.confirm(confirmed(9, 1, s(31) + T), s(31));
    assert_eq!(
        rate(&restored, s(31)),
        1.0,
        "a confirmation of another catalogue is none"
    );
    let mut away = settled();
    away.confirm(confirmed(5, 2, s(31) + T), s(31));
    assert_eq!(rate(&away, s(31)), 1.0, "it was not counted for a while");
}

#[test]
fn a_confirmation_ahead_of_the_view_waits_for_it() {
    let mut holder = holder(5, 100.0);
    for second in 0..=20 {
        holder.confirm(confirmed(5, 1, s(second) + T), s(second));
    }
    holder.confirm(confirmed(6, 1, s(29) + T), s(29));
    assert_eq!(rate(&holder, s(30)), 1.0, "what is in force now is not known");
    holder.share(Some(&share(6, 50.0, 50.0, 5)), Incarnation(7), s(30));
    assert_eq!(rate(&holder, s(30)), 50.0);
}

#[test]
fn a_registry_that_confirms_nothing_is_believed_for_good() {
    let mut holder = holder(0, 100.0);
    assert_eq!(rate(&holder, s(0)), 100.0);
    holder.share(None, Incarnation(7), s(0));
    assert!(holder.allowance(s(0)).is_none());
}
