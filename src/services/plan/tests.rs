//! The plan under scripted and random answers.

use super::*;

const PACE: Pace = Pace {
    check_every: Span::from_secs(5),
    forget_after: Span::from_secs(600),
    holdoff: Span::from_secs(60),
};

fn at(seconds: u64) -> Moment {
    Moment(seconds * 1_000_000_000)
}

/// Answers every command with success until nothing is left to do; returns the commands.
fn run_well(plan: &mut Plan, now: Moment, notices: &mut Vec<Notice>) -> Vec<Command> {
    let mut commands = Vec::new();
    loop {
        let (command, notice) = plan.next(now);
        notices.extend(notice);
        let Some(command) = command else { return commands };
        commands.push(command);
        notices.extend(match command {
            Command::Start(n) => plan.started(now, n, Ok(())),
            Command::Stop(n) => plan.stopped(n, Ok(())),
            Command::Check(n) => plan.checked(now, n, Health::Running),
        });
    }
}

fn up(count: usize, now: Moment) -> Plan {
    let mut plan = Plan::new(count, PACE);
    plan.wish_up(now);
    run_well(&mut plan, now, &mut Vec::new());
    plan
}

#[test]
fn services_start_in_order_and_stop_in_reverse() {
    let mut notices = Vec::new();
    let mut plan = Plan::new(3, PACE);
    plan.wish_up(at(0));
    let commands = run_well(&mut plan, at(0), &mut notices);
    assert_eq!(commands, [Command::Start(0), Command::Start(1), Command::Start(2)]);
    plan.wish_down();
    let commands = run_well(&mut plan, at(1), &mut notices);
    assert_eq!(commands, [Command::Stop(2), Command::Stop(1), Command::Stop(0)]);
    assert_eq!(notices, [Notice::Up, Notice::Down { stuck: vec![] }]);
    assert_eq!(plan.settled(), Some(false));
}

#[test]
fn a_fresh_plan_stops_what_a_predecessor_may_have_left() {
    let mut plan = Plan::new(2, PACE);
    plan.wish_down();
    let commands = run_well(&mut plan, at(0), &mut Vec::new());
    assert_eq!(commands, [Command::Stop(1), Command::Stop(0)]);
}

#[test]
fn nothing_is_touched_before_the_first_wish() {
    let mut plan = Plan::new(2, PACE);
    assert_eq!(plan.next(at(0)), (None, None));
    plan.wish_up(at(0));
    assert_eq!(plan.next(at(0)).0, Some(Command::Start(0)));
}

#[test]
fn a_dead_service_is_restarted_once_then_the_peer_is_asked_then_it_is_reported() {
    let mut plan = up(2, at(0));
    assert_eq!(plan.next(at(100)).0, Some(Command::Check(0)));
    let notice = plan.checked(at(100), 0, Health::Dead("gone".into()));
    assert!(matches!(notice, Some(Notice::Restarting { service: 0, .. })));
    let commands = run_well(&mut plan, at(100), &mut Vec::new());
    assert_eq!(commands[..2], [Command::Stop(0), Command::Start(0)]);

    plan.next(at(110));
    let notice = plan.checked(at(110), 0, Health::Dead("gone".into()));
    assert!(matches!(notice, Some(Notice::WantSwitchover { service: 0, .. })), "{notice:?}");
    let notice = plan.switchover_refused(0, "beta is not in sync");
    let Notice::GaveUp { service: 0, why } = notice else { panic!("{notice:?}") };
    assert!(why.contains("gone") && why.contains("beta is not in sync"), "{why}");
    assert_eq!(plan.view(0).0, "failed");
    assert_eq!(plan.view(1).0, "running");
}

#[test]
fn a_death_long_ago_is_forgotten() {
    let mut plan = up(1, at(0));
    plan.next(at(100));
    plan.checked(at(100), 0, Health::Dead("gone".into()));
    run_well(&mut plan, at(100), &mut Vec::new());
    plan.next(at(800));
    assert_eq!(plan.checked(at(800), 0, Health::Running), None);
    plan.next(at(800));
    plan.next(at(900));
    let notice = plan.checked(at(900), 0, Health::Dead("gone".into()));
    assert!(matches!(notice, Some(Notice::Restarting { .. })), "{notice:?}");
}

#[test]
fn two_nodes_on_which_a_service_cannot_start_do_not_play_ping_pong() {
    let mut plan = Plan::new(2, PACE);
    plan.wish_up(at(0));
    assert_eq!(plan.next(at(0)).0, Some(Command::Start(0)));
    assert!(matches!(plan.started(at(1), 0, Err("no".into())), Some(Notice::Restarting { .. })));
    assert_eq!(plan.next(at(1)).0, Some(Command::Stop(0)));
    plan.stopped(0, Ok(()));
    assert_eq!(plan.next(at(1)).0, Some(Command::Start(0)));
    assert!(matches!(plan.started(at(2), 0, Err("no".into())), Some(Notice::GaveUp { service: 0, .. })));
    // The others still get their chance.
    assert_eq!(plan.next(at(2)).0, Some(Command::Start(1)));
}

#[test]
fn silence_counts_as_death_only_after_three_looks() {
    let mut plan = up(1, at(0));
    for round in 1..=3_u64 {
        let now = at(100 * round);
        assert_eq!(plan.next(now).0, Some(Command::Check(0)), "round {round}");
        let notice = plan.checked(now, 0, Health::Unknown("no answer".into()));
        assert_eq!(notice.is_some(), round == 3, "round {round}");
        if round < 3 {
            plan.next(now);
        }
    }
}

#[test]
fn a_start_that_ends_after_the_wish_turned_is_stopped_again() {
    let mut plan = Plan::new(2, PACE);
    plan.wish_up(at(0));
    assert_eq!(plan.next(at(0)).0, Some(Command::Start(0)));
    plan.wish_down();
    assert_eq!(plan.next(at(0)), (None, None), "one command at a time");
    assert_eq!(plan.started(at(1), 0, Err("interrupted".into())), None);
    let commands = run_well(&mut plan, at(1), &mut Vec::new());
    assert_eq!(commands, [Command::Stop(1), Command::Stop(0)]);
}

#[test]
fn a_stop_that_fails_does_not_keep_the_others_running() {
    let mut plan = up(3, at(0));
    plan.wish_down();
    assert_eq!(plan.next(at(1)).0, Some(Command::Stop(2)));
    assert!(matches!(plan.stopped(2, Err("hangs".into())), Some(Notice::StopFailed { service: 2, .. })));
    let mut notices = Vec::new();
    let commands = run_well(&mut plan, at(1), &mut notices);
    assert_eq!(commands, [Command::Stop(1), Command::Stop(0)]);
    assert_eq!(notices, [Notice::Down { stuck: vec![2] }]);
}

#[test]
fn a_service_started_by_hand_after_we_gave_up_is_noticed() {
    let mut plan = up(1, at(0));
    plan.give_up(0, "no".into());
    assert_eq!(plan.next(at(100)).0, Some(Command::Check(0)));
    assert_eq!(plan.checked(at(100), 0, Health::Dead("no".into())), None, "known already");
    plan.next(at(100));
    assert_eq!(plan.next(at(200)).0, Some(Command::Check(0)));
    assert_eq!(plan.checked(at(200), 0, Health::Running), Some(Notice::Recovered { service: 0 }));
}

#[test]
fn under_any_answers_nothing_is_started_while_down_is_wished_and_down_is_reached() {
    let mut seed = 7_u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 33
    };
    for _ in 0..2_000 {
        let mut plan = Plan::new(1 + usize::try_from(random() % 4).unwrap(), PACE);
        let mut now = at(0);
        let mut wish_up = false;
        for _ in 0..60 {
            now = now + Span::from_secs(random() % 30);
            match random() % 6 {
                0 => {
                    wish_up = !wish_up;
                    if wish_up { plan.wish_up(now) } else { plan.wish_down() }
                }
                _ => {
                    let bad = random() % 3 == 0;
                    let verdict = if bad { Err("no".to_string()) } else { Ok(()) };
                    let notice = match plan.next(now).0 {
                        Some(Command::Start(n)) => {
                            assert!(wish_up, "started while down was wished");
                            plan.started(now, n, verdict)
                        }
                        Some(Command::Stop(n)) => plan.stopped(n, verdict),
                        Some(Command::Check(n)) => {
                            plan.checked(now, n, if bad { Health::Dead("x".into()) } else { Health::Running })
                        }
                        None => None,
                    };
                    if let Some(Notice::WantSwitchover { service, .. }) = notice {
                        plan.switchover_refused(service, "test");
                    }
                }
            }
        }
        plan.wish_down();
        run_well(&mut plan, now, &mut Vec::new());
        assert_eq!(plan.settled(), Some(false));
    }
}
