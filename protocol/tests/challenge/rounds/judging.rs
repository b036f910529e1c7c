//! A member that judges others: whom it asks how often, what it takes for right, and when it is silent.

use super::*;

#[test]
fn a_late_commitment_counts_for_nothing() {
    let mut table = Table::new();
    table.commit(1, 50);
    let node = table.network.node(0);
    let commitment = Commitment { round: ROUND, node, end: Hash::ZERO };
    let outputs = table.hear(1, 50 + W + 1, commitment);
    assert_eq!(ignored(&outputs), Some((node, Ignored::Late { late_ms: 1 })));
    assert!(table.rounds[1].handle(60_000, RoundInput::Tick).is_empty(), "never asked");
}

#[test]
fn the_first_commitment_counts() {
    let mut table = Table::new();
    let commitment = table.commit(0, 0);
    table.commit(1, 0);
    let false_one = Commitment { end: Hash::ZERO, ..commitment };
    let now_ms = table.asks_at(1, 10, false_one);
    let node = table.network.node(0);
    let outputs = table.hear(1, now_ms, commitment);
    assert_eq!(ignored(&outputs), Some((node, Ignored::SecondCommitment)));
    let transcript = table.transcript(0, 1).unwrap();
    let outputs = table.judge(1, 0, now_ms, transcript);
    let reason = Ignored::Transcript(TranscriptError::OtherEnd);
    assert_eq!(ignored(&outputs), Some((node, reason)), "it is not the transcript of the first");
}

/// Neither a flood of wrong transcripts nor one of requests costs more than a few checks.
#[test]
fn wrong_transcripts_are_judged_once() {
    let mut table = Table::new();
    let commitment = table.commit(0, 0);
    table.commit(1, 0);
    let (node, mut wrong) = (commitment.node, table.transcript(0, 1).unwrap().to_vec());
    let unasked = RoundInput::Transcript { node, transcript: Some(wrong.clone().into()) };
    assert!(table.rounds[1].handle(0, unasked.clone()).is_empty(), "not asked for");
    let mut now_ms = table.asks_at(1, 10, commitment);
    wrong[100] ^= 1;
    let outputs = table.judge(1, 0, now_ms, wrong.into());
    let Some((of, Ignored::Transcript(TranscriptError::Step { step: 0, error }))) =
        ignored(&outputs)
    else {
        panic!("{outputs:?}");
    };
    assert_eq!((of, error), (node, StepError::Chunk));
    for _ in 0..100 {
        assert!(table.rounds[1].handle(now_ms, unasked.clone()).is_empty());
        let judged = RoundInput::Judged { node, verdict: Ok(()) };
        assert!(table.rounds[1].handle(now_ms, judged).is_empty(), "a verdict is final");
        now_ms += 500;
        assert!(table.rounds[1].handle(now_ms, RoundInput::Tick).is_empty(), "not asked again");
    }
    let most = RoundConfig::default().attempts_max as usize;
    let answers = (0..100).filter(|_| table.transcript(0, 2).is_some()).count();
    assert_eq!(answers, most, "a member gets it a few times");
}

#[test]
fn who_does_not_answer_is_asked_a_few_times() {
    let mut table = Table::new();
    let commitment = table.commit(0, 0);
    table.commit(1, 0);
    let mut outputs = table.hear(1, 10, commitment);
    let (node, mut now_ms, mut asked) = (table.network.node(0), 10, 0);
    loop {
        match &outputs[..] {
            [] => {
                now_ms = table.rounds[1].wake_at_ms().unwrap();
                outputs = table.rounds[1].handle(now_ms, RoundInput::Tick);
            }
            [RoundOutput::Ask { .. }] => {
                asked += 1;
                outputs = table.rounds[1].handle(now_ms, RoundInput::NoAnswer { node });
            }
            other => {
                assert_eq!(ignored(other), Some((node, Ignored::NoAnswer)));
                break;
            }
        }
    }
    assert_eq!(asked, RoundConfig::default().attempts_max);
    // Who says that it needs nobody is left in peace.
    let commitment = table.commit(2, 0);
    let now_ms = table.asks_at(1, 10, commitment);
    let node = commitment.node;
    let input = RoundInput::Transcript { node, transcript: None };
    let outputs = table.rounds[1].handle(now_ms, input);
    assert_eq!(ignored(&outputs), Some((node, Ignored::NoTranscript)));
    assert!(table.rounds[1].handle(now_ms + 60_000, RoundInput::Tick).is_empty());
}

/// Who is asked and says nothing keeps nobody else waiting.
#[test]
fn who_hangs_frees_his_place_by_the_clock() {
    let config = RoundConfig { busy_max: 2, attempts_max: 2, ..RoundConfig::default() };
    let mut table = Table::new();
    let universe = Arc::clone(&table.network.universe);
    table.rounds[1] = Round::new(config, universe, table.network.node(1)).unwrap();
    table.open(1, 0, Sight::default());
    let mut hanging: Vec<_> = [0, 2, 3, 4].map(|at| table.network.node(at)).to_vec();
    let mut outputs = Vec::new();
    for node in hanging.clone() {
        outputs.extend(table.hear(1, 0, Commitment { round: ROUND, node, end: Hash::ZERO }));
    }
    let honest = table.commit(5, 0);
    outputs.extend(table.hear(1, 0, honest));
    let (mut now_ms, mut asked, mut served_ms) = (0, BTreeMap::<NodeId, u64>::new(), None);
    loop {
        for output in std::mem::take(&mut outputs) {
            match output {
                RoundOutput::Ask { node, .. } if node == honest.node => served_ms = Some(now_ms),
                RoundOutput::Ask { node, .. } => {
                    assert!(asked.insert(node, now_ms).is_none_or(|at_ms| {
                        now_ms >= at_ms + config.answer_ms + config.retry_ms
                    }));
                }
                RoundOutput::Ignored { node, reason: Ignored::NoAnswer } => {
                    hanging.retain(|one| *one != node);
                }
                // What it has read for its own chain is not told.
                RoundOutput::Walk(_) | RoundOutput::GaveUp(_) => {}
                other => panic!("{other:?}"),
            }
        }
        if let Some(at_ms) = served_ms.take() {
            assert!(at_ms <= 4 * config.answer_ms + 6 * config.turn_ms, "at {at_ms}");
            let node = honest.node;
            let input = RoundInput::Transcript { node, transcript: table.transcript(5, 1) };
            outputs = table.rounds[1].handle(now_ms, input);
            assert!(matches!(outputs[0], RoundOutput::Verify(_)), "{outputs:?}");
            outputs.remove(0);
            let judged = RoundInput::Judged { node, verdict: Ok(()) };
            outputs.extend(table.rounds[1].handle(now_ms, judged));
            let acknowledged = |output: &RoundOutput| matches!(output, RoundOutput::Acknowledge(_));
            assert!(outputs.iter().any(acknowledged), "{outputs:?}");
            outputs.retain(|output| !acknowledged(output));
            continue;
        }
        let Some(at_ms) = table.rounds[1].wake_at_ms() else { break };
        assert!(at_ms > now_ms, "something is due that is not done");
        now_ms = at_ms;
        outputs = table.rounds[1].handle(now_ms, RoundInput::Tick);
    }
    assert!(hanging.is_empty() && asked.len() == 4, "each was given up");
    assert_eq!(table.progress(1, 5), Progress::Acknowledged);
}

/// The proof that a blob is inconsistent may arrive a moment after the transcript that builds on it.
#[test]
fn a_proof_of_inconsistency_may_come_late() {
    let mut table = Table::new();
    let outputs = table.open(0, 0, Sight::default());
    let [RoundOutput::Walk(walk)] = &outputs[..] else { panic!("{outputs:?}") };
    let first = walk.place().unwrap();
    let blob = first.blob;
    let walked = walk.as_ref().clone().run(|place| {
        let is_first = *place == first;
        if is_first { Some(StepProof::Inconsistent) } else { table.network.read(place).ok() }
    });
    let outputs = table.rounds[0].handle(0, RoundInput::Walked(walked));
    let [RoundOutput::Commit(commitment)] = outputs[..] else { panic!("{outputs:?}") };
    table.commit(1, 0);
    let mut now_ms = table.asks_at(1, 10, commitment);
    let node = commitment.node;
    let judge = |table: &mut Table, now_ms, known: &BTreeSet<_>| {
        let transcript = table.transcript(0, 1);
        let outputs = table.rounds[1].handle(now_ms, RoundInput::Transcript { node, transcript });
        let [RoundOutput::Verify(verification)] = &outputs[..] else { panic!("{outputs:?}") };
        let verdict = verification.run(known);
        table.rounds[1].handle(now_ms, RoundInput::Judged { node, verdict })
    };
    for _ in 0..3 {
        assert!(judge(&mut table, now_ms, &BTreeSet::new()).is_empty(), "not yet, perhaps");
        now_ms = table.await_turn(1, &node, now_ms);
    }
    let outputs = judge(&mut table, now_ms, &BTreeSet::from([blob]));
    assert!(matches!(outputs[..], [RoundOutput::Acknowledge(_)]), "{outputs:?}");
}

#[test]
fn without_a_proof_of_inconsistency_nothing_is_acknowledged() {
    let mut table = Table::new();
    table.commit(1, 0);
    let node = table.network.node(0);
    let commitment = Commitment { round: ROUND, node, end: Hash::ZERO };
    let mut now_ms = table.asks_at(1, 10, commitment);
    let error = StepError::NotInconsistent(BlobId::new([1; 32]));
    let error = TranscriptError::Step { step: 3, error };
    let (mut asked, reason) = (0, Ignored::Transcript(error));
    loop {
        asked += 1;
        let transcript = Some(Bytes::new());
        let outputs = table.rounds[1].handle(now_ms, RoundInput::Transcript { node, transcript });
        assert!(matches!(outputs[..], [RoundOutput::Verify(_)]), "{outputs:?}");
        let judged = RoundInput::Judged { node, verdict: Err(error) };
        let outputs = table.rounds[1].handle(now_ms, judged);
        if !outputs.is_empty() {
            assert_eq!(ignored(&outputs), Some((node, reason)));
            break;
        }
        now_ms = table.await_turn(1, &node, now_ms);
    }
    assert_eq!(asked, RoundConfig::default().attempts_max);
    assert!(table.rounds[1].handle(now_ms + 60_000, RoundInput::Tick).is_empty());
}

#[test]
fn who_cannot_tell_the_time_is_silent() {
    for (sight, silence) in [
        (Sight { by_sync: true, ..Sight::default() }, Silence::Synced),
        (
            Sight { later_certified_ms: Some(3_000), ..Sight::default() },
            Silence::Behind { behind_ms: 2_000 },
        ),
    ] {
        let mut table = Table::new();
        table.commit_with(1, 5_000, sight);
        let node = table.network.node(0);
        let commitment = Commitment { round: ROUND, node, end: Hash::ZERO };
        let outputs = table.hear(1, 5_001, commitment);
        assert_eq!(ignored(&outputs), Some((node, Ignored::Silent(silence))));
        assert!(table.rounds[1].handle(60_000, RoundInput::Tick).is_empty(), "never asked");
    }
}

#[test]
fn who_stands_still_within_a_window_judges_only_what_came_before() {
    let mut table = Table::new();
    let before = table.commit(0, 0);
    table.commit(1, 0);
    let mut asked = !table.hear(1, 100, before).is_empty();
    let outputs = table.rounds[1].handle(2_500, RoundInput::Paused { since_ms: 200 });
    asked |= matches!(outputs[..], [RoundOutput::Ask { node, .. }] if node == before.node);
    assert!(asked, "{outputs:?}");
    let node = table.network.node(2);
    let after = Commitment { round: ROUND, node, end: Hash::ZERO };
    let outputs = table.hear(1, 2_501, after);
    assert_eq!(ignored(&outputs), Some((node, Ignored::Silent(Silence::Paused))));
}

/// What had piled up is worked off at once, and says nothing of when it came.
#[test]
fn who_stood_still_just_before_a_round_is_silent_in_it() {
    for (waits_ms, is_silent) in [(0, true), (W, true), (W + 1, false)] {
        let mut table = Table::new();
        let commitment = table.commit(0, 0);
        let (me, universe) = (table.network.node(1), Arc::clone(&table.network.universe));
        let began = (0, Height::new(ROUND.get() - 1));
        let mut rounds = Rounds::new(RoundConfig::default(), me, W, began);
        // Three seconds without a beat, then beats again.
        let mut now_ms = 3_000;
        assert!(rounds.tick(now_ms).is_empty());
        while now_ms < 3_000 + waits_ms {
            now_ms = rounds.wake_at_ms().min(3_000 + waits_ms);
            assert!(rounds.tick(now_ms).is_empty());
        }
        let [opening, seed] = table.opening();
        rounds.committed(now_ms, &opening, Sight::default(), Some(Arc::clone(&universe)));
        rounds.committed(now_ms, &seed, Sight::default(), None);
        let outputs = rounds.commitment((now_ms, now_ms), &universe.committee, commitment);
        let silent = Ignored::Silent(Silence::Paused);
        let is = |(_, output): &(ChallengeRound, RoundOutput)| matches!(output, RoundOutput::Ignored { reason, .. } if *reason == silent);
        assert_eq!(outputs.iter().any(is), is_silent, "{waits_ms} ms: {outputs:?}");
    }
}

#[test]
fn what_has_waited_counts_by_when_it_came_and_time_does_not_go_back() {
    let mut table = Table::new();
    let [in_time, late] = [2, 3].map(|at| table.commit(at, 0));
    table.commit(1, 0);
    table.rounds[1].handle(W + 500, RoundInput::Tick);
    let mut hear = |commitment, at_ms| {
        // The driver's clock is read before and after.
        let input = RoundInput::Commitment { commitment, at_ms };
        table.rounds[1].handle(at_ms, input)
    };
    let reasons = |outputs: Vec<RoundOutput>| {
        outputs.into_iter().filter_map(|output| match output {
            RoundOutput::Ignored { reason, .. } => Some(reason),
            _ => None,
        })
    };
    assert_eq!(reasons(hear(in_time, W)).count(), 0);
    let late: Vec<_> = reasons(hear(late, W + 200)).collect();
    assert_eq!(late, [Ignored::Late { late_ms: 200 }]);
    let wake_ms = table.rounds[1].wake_at_ms();
    assert!(wake_ms.is_none_or(|at_ms| at_ms > W + 500), "{wake_ms:?}");
}

#[test]
fn a_transcript_that_comes_just_too_late_is_judged_and_a_refusal_is_not_taken() {
    let mut table = Table::new();
    let commitment = table.commit(2, 0);
    table.commit(1, 0);
    let asked_ms = table.asks_at(1, 0, commitment);
    let config = RoundConfig::default();
    let late_ms = asked_ms + config.answer_ms;
    table.rounds[1].handle(late_ms, RoundInput::Tick);
    let node = commitment.node;
    let mut answered = |transcript| {
        table.rounds[1].handle(late_ms + 1, RoundInput::Transcript { node, transcript })
    };
    assert!(answered(None).is_empty());
    let outputs = answered(Some(Bytes::from_static(b"late")));
    assert!(matches!(outputs[..], [RoundOutput::Verify(_)]), "{outputs:?}");
}
