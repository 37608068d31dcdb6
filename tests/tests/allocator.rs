//! Solvers of budgets: against brute force, closed forms and each other.

use lapidary_engine::allocator::{
    self, Choice, Frontier, Group, Hull, Level, Problem, SOLVERS, Search, Settings, Solution,
    Stage, Trial, by_share, continuous, explain, no_worse_than, smallest_within, split,
};
use lapidary_engine::{Error, Observer, Result, Silent};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof, proptest};

/// An option of `bytes` and `damage`, its nominal bits and label its place.
fn option(place: usize, bytes: u64, damage: f64) -> Level {
    Level { label: place, bits: place as f64 + 2.0, bytes, damage }
}

fn group(name: usize, options: &[(u64, f64)]) -> Group {
    let options: Vec<Level> = options
        .iter()
        .enumerate()
        .map(|(at, &(bytes, damage))| option(at, bytes, damage))
        .collect();
    Group::new(format!("group {name}"), options.iter().map(|o| o.bytes).max().unwrap_or(0), options)
}

/// Groups of one to four options: coarse and fine sizes, damages that are integers (so that sums are exact and ties
/// common), measured ones below zero, some groups locked or bounded.
fn groups(most: usize) -> impl Strategy<Value = Vec<Group>> {
    let bytes = prop_oneof![(0_u64..6).prop_map(|units| units * 64), 0_u64..1000, 0_u64..1 << 40];
    let damage = prop_oneof![(-3_i32..40).prop_map(f64::from), 0.0..1.0_f64];
    let options = prop::collection::vec((bytes, damage), 1..5);
    let held = prop_oneof![
        6 => Just((None, None, None)),
        1 => (0_usize..4).prop_map(|at| (Some(at), None, None)),
        1 => Just((None, Some(3.0), None)),
        1 => Just((None, None, Some(4.0))),
    ];
    let held = (options, held).prop_map(|(options, (locked, floor, ceiling))| {
        let mut group = group(0, &options);
        let most_bits = options.len() as f64 + 1.0;
        group.locked = locked.map(|at: usize| at % options.len());
        group.floor_bits = floor.filter(|floor| *floor <= most_bits);
        group.ceiling_bits = ceiling;
        group
    });
    prop::collection::vec(held, 0..=most)
}

/// A problem with its budget between a little below the least and a little above the most bytes.
fn problems(most: usize) -> impl Strategy<Value = Problem> {
    (groups(most), -0.1..1.1_f64).prop_map(|(groups, share)| {
        let mut problem = Problem::new(groups, 0).expect("a problem that makes sense");
        let (least, most) = (problem.smallest().bytes, problem.best().bytes);
        problem.set_budget((least as f64 + share * (most - least) as f64).max(0.0) as u64);
        problem
    })
}

/// Every allowed choice.
fn every_choice(problem: &Problem) -> Vec<Choice> {
    let mut all = vec![Vec::new()];
    for group in 0..problem.groups().len() {
        let longer = |options: Vec<usize>| {
            let with = move |&option: &usize| [options.clone(), vec![option]].concat();
            problem.allowed(group).iter().map(with)
        };
        all = all.into_iter().flat_map(longer).collect();
    }
    all.into_iter().map(|options| problem.choice(options)).collect()
}

fn least_damage<'a>(choices: impl IntoIterator<Item = &'a Choice>) -> f64 {
    choices.into_iter().map(|choice| choice.damage).fold(f64::INFINITY, f64::min)
}

/// Equal but for the order in which sums were taken.
#[track_caller]
fn assert_near(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-12 * (1.0 + a.abs().max(b.abs())), "{a} and {b}");
}

#[track_caller]
fn assert_keeps_to(problem: &Problem, choice: &Choice) {
    assert_eq!(*choice, problem.choice(choice.options.clone()), "bytes or damage are not its own");
    assert!(choice.bytes <= problem.budget(), "{} of {}", choice.bytes, problem.budget());
    for (group, &option) in problem.groups().iter().zip(&choice.options) {
        let bits = group.options[option].bits;
        match group.locked {
            Some(locked) => assert_eq!(option, locked),
            None => assert!(
                group.floor_bits.is_none_or(|floor| floor <= bits)
                    && group.ceiling_bits.is_none_or(|ceiling| bits <= ceiling)
            ),
        }
    }
}

/// A solver's answer; a search with fewer offspring.
fn solved(id: &str, problem: &Problem) -> Result<Solution> {
    allocator::find(id)?.solve(problem, &Silent)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_knapsack_is_what_brute_force_finds(problem in problems(6)) {
        let all = every_choice(&problem);
        let fitting: Vec<&Choice> = all.iter().filter(|c| c.bytes <= problem.budget()).collect();
        let found = solved("knapsack", &problem);
        if fitting.is_empty() {
            let least = all.iter().map(|choice| choice.bytes).min().unwrap_or(0);
            let sentence = found.expect_err("nothing fits").sentence();
            assert!(sentence.contains(&format!("{least} bytes is the least")), "{sentence}");
        } else {
            let found = found.expect("something fits");
            assert_near(found.choice.damage, least_damage(fitting));
            assert_eq!(found.within_bytes, 0);
        }
    }

    #[test]
    fn the_frontier_is_what_brute_force_finds_at_every_budget(problem in problems(5)) {
        let all = every_choice(&problem);
        let frontier = Frontier::of(&problem, &Silent).expect("a frontier");
        assert_eq!(frontier.slack_bytes(), 0);
        assert!(frontier.points().is_sorted_by(|a, b| a.bytes < b.bytes && a.damage > b.damage));
        for choice in &all {
            let found = frontier.at(choice.bytes, &Silent).expect("something fits").choice;
            assert!(found.bytes <= choice.bytes);
            assert_near(found.damage, least_damage(all.iter().filter(|c| c.bytes <= choice.bytes)));
        }
        for point in frontier.points() {
            let found = frontier.at(point.bytes, &Silent).expect("a point").choice;
            assert_eq!(found.bytes, point.bytes);
            assert_near(found.damage, point.damage);
        }
    }

    #[test]
    fn a_thinned_frontier_is_within_what_it_says_and_its_solutions_exact(problem in problems(6), most in 2_usize..9) {
        let exact = Frontier::of(&problem, &Silent).expect("a frontier");
        let thin = Frontier::of_at_most(&problem, most, &Silent).expect("a frontier");
        assert!(thin.points().len() <= most.max(2) + 1);
        for point in exact.points() {
            let best = exact.at(point.bytes, &Silent).expect("a point").choice;
            let found = thin.looked_up(point.bytes).expect("something fits");
            assert!(found.choice.bytes <= point.bytes);
            assert!(found.within_bytes <= thin.slack_bytes());
            // No choice of so many bytes fewer is better than what was looked up.
            if let Ok(smaller) = exact.at(point.bytes.saturating_sub(found.within_bytes), &Silent) {
                assert!(found.within_bytes > point.bytes || found.choice.damage <= smaller.choice.damage + 1e-9);
            }
            assert_near(thin.at(point.bytes, &Silent).expect("something fits").choice.damage, best.damage);
        }
    }

    #[test]
    fn the_lagrangian_is_the_knapsack_at_the_vertices_of_its_hull(problem in problems(6)) {
        let hull = Hull::of(&problem);
        let frontier = Frontier::of(&problem, &Silent).expect("a frontier");
        assert!(hull.points().is_sorted_by(|a, b| a.bytes < b.bytes && a.damage > b.damage));
        for point in hull.points() {
            let choice = hull.at(&problem, point.bytes).expect("a vertex");
            assert_eq!(choice.bytes, point.bytes);
            assert_near(choice.damage, point.damage);
            assert_near(choice.damage, frontier.at(point.bytes, &Silent).expect("a point").choice.damage);
        }
    }

    #[test]
    fn the_dual_is_the_smallest_that_does_no_more_damage(problem in problems(6), at in any::<prop::sample::Index>()) {
        let all = every_choice(&problem);
        let reference = at.get(&all);
        let found = no_worse_than(&problem, &reference.options, &Silent).expect("the reference itself");
        assert!(found.choice.damage <= reference.damage);
        assert!(problem.is_allowed(&found.choice.options));
        // Sums of equal damage may differ in their last digit.
        let clearly = reference.damage - 1e-12 * (1.0 + reference.damage.abs());
        let least = |most: f64| all.iter().filter(|c| c.damage <= most).map(|c| c.bytes).min();
        assert!(found.choice.bytes <= least(clearly).unwrap_or(reference.bytes));
        assert!(found.choice.bytes >= least(reference.damage).expect("the reference"));
    }

    #[test]
    fn prices_lie_around_the_multiplier_at_a_vertex(problem in problems(6)) {
        let hull = Hull::of(&problem);
        for vertex in hull.points() {
            let mut problem = problem.clone();
            problem.set_budget(vertex.bytes);
            let choice = hull.at(&problem, vertex.bytes).expect("a vertex");
            for group in 0..problem.groups().len() {
                let why = explain(&problem, &choice, group);
                let hair = 1e-9 * (1.0 + why.multiplier);
                assert!(why.up.is_none_or(|up| up.price <= why.multiplier + hair), "{why:?}");
                assert!(why.down.is_none_or(|down| down.price >= why.multiplier - hair), "{why:?}");
            }
        }
    }

    #[test]
    fn every_offspring_keeps_the_budget(problem in problems(12), seed in any::<u64>()) {
        let settings = Settings { offspring: 16, seed, ..Settings::default() };
        let Ok(search) = Search::new(&problem, settings, None) else { return Ok(()) };
        for generation in 0..4 {
            for child in search.offspring(&problem, generation) {
                assert_keeps_to(&problem, &problem.choice(child));
            }
        }
    }
}

proptest! {
    // Fewer: the evolution among them takes its time.
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_solver_exceeds_the_budget_or_what_is_allowed(problem in problems(12)) {
        let least = problem.smallest().bytes;
        let best = solved("knapsack", &problem);
        for solver in SOLVERS {
            match solver.solve(&problem, &Silent) {
                Ok(solution) => {
                    assert_keeps_to(&problem, &solution.choice);
                    let best = best.as_ref().expect("the knapsack solves what others do");
                    assert!(solution.choice.damage >= best.choice.damage - 1e-9, "{}", solver.about().id);
                }
                Err(error) => {
                    assert!(problem.budget() < least, "{}: {error}", solver.about().id);
                    assert!(matches!(error, Error::Plan { .. }));
                    assert!(error.sentence().contains(&format!("{least} bytes is the least")), "{error}");
                }
            }
        }
    }

    #[test]
    fn what_a_solver_says_of_its_distance_is_true(problem in problems(6)) {
        let all = every_choice(&problem);
        for id in ["lagrangian", "water-filling", "ratio", "evolution"] {
            let Ok(solution) = solved(id, &problem) else { continue };
            let Some(smaller) = problem.budget().checked_sub(solution.within_bytes) else { continue };
            let least = least_damage(all.iter().filter(|choice| choice.bytes <= smaller));
            assert!(solution.choice.damage <= least + 1e-9, "{id}");
        }
    }
}

/// `n` groups of `weights` weights, quantised to 2 … 6 bits, damage c·4^(−bits) with c rising by group.
fn quantised(n: usize, weights: impl Fn(usize) -> u64) -> Vec<Group> {
    let of = |index: usize| {
        let sensitivity = 1.0 + ((index * 7919) % 101) as f64;
        let option = |bits: u32| Level {
            label: bits as usize,
            bits: f64::from(bits),
            bytes: weights(index) * u64::from(bits) / 8,
            damage: sensitivity * 4.0_f64.powi(-(bits as i32)),
        };
        Group::new(format!("layer {index}"), weights(index), (2..=6).map(option).collect())
    };
    (0..n).map(of).collect()
}

fn mean_bits(problem: &Problem, choice: &Choice) -> f64 {
    let weights: u64 = problem.groups().iter().map(|group| group.weights).sum();
    8.0 * choice.bytes as f64 / weights as f64
}

#[test]
fn water_is_the_closed_form_and_rounds_to_within_half_a_step() {
    let weights = |index: usize| 4096 * (1 + index as u64 % 5);
    let budget = quantised(60, weights).iter().map(|group| group.weights).sum::<u64>() * 7 / 16;
    let problem = Problem::new(quantised(60, weights), budget).unwrap();
    let water = continuous(&problem).unwrap();
    let bytes = |bits: &[f64]| -> f64 {
        problem.groups().iter().zip(bits).map(|(group, b)| group.weights as f64 * b / 8.0).sum()
    };
    assert!((bytes(&water.bits) / budget as f64 - 1.0).abs() < 1e-9);
    let mut unclamped = 0;
    for (index, (group, &bits)) in problem.groups().iter().zip(&water.bits).enumerate() {
        let sensitivity = 1.0 + ((index * 7919) % 101) as f64;
        let per_weight = sensitivity / group.weights as f64;
        // −dD/dB for each weight: V where nothing is clamped, less than V at the least, more at the most bits.
        let slope = 2.0 * std::f64::consts::LN_2 * per_weight * 4.0_f64.powf(-bits);
        let ratio = slope / water.log2_price.exp2();
        if bits > 2.0 && bits < 6.0 {
            unclamped += 1;
            assert!((ratio - 1.0).abs() < 1e-9, "group {index}: {ratio}");
        } else {
            assert!(if bits == 2.0 { ratio <= 1.0 + 1e-9 } else { ratio >= 1.0 - 1e-9 });
        }
    }
    assert!(unclamped > 40, "{unclamped}");
    let rounded = solved("water-filling", &problem).unwrap().choice;
    let exact = solved("knapsack", &problem).unwrap().choice;
    assert!(rounded.damage <= 1.02 * exact.damage, "{} and {}", rounded.damage, exact.damage);
    assert!(mean_bits(&problem, &rounded) > 3.49);
    let far = |(option, bits): (&usize, &f64)| (*option as f64 + 2.0 - bits).abs() > 1.0;
    assert_eq!(rounded.options.iter().zip(&water.bits).filter(|pair| far(*pair)).count(), 0);
}

#[test]
fn equal_sensitivities_get_equal_bits() {
    let groups: Vec<Group> = (0..8)
        .map(|index| Group { name: format!("{index}"), ..quantised(1, |_| 1024)[0].clone() })
        .collect();
    let problem = Problem::new(groups, 8 * 1024 * 4 / 8).unwrap();
    assert!(continuous(&problem).unwrap().bits.iter().all(|bits| (bits - 4.0).abs() < 1e-9));
    for id in ["knapsack", "lagrangian", "water-filling", "dual", "ratio"] {
        assert_eq!(solved(id, &problem).unwrap().choice.options, [2; 8], "{id}");
    }
}

#[test]
fn a_thousand_groups_of_odd_sizes_are_solved_exactly() {
    let groups = quantised(1000, |index| 100_003 + 7 * ((index as u64 * 104_729) % 99_991));
    let all: u64 = groups.iter().map(|group| group.weights).sum();
    let mut problem = Problem::new(groups, 0).unwrap();
    for bits in [2.3, 3.0, 3.7, 4.5, 5.9] {
        problem.set_budget((all as f64 * bits / 8.0) as u64);
        let exact = solved("knapsack", &problem).unwrap();
        assert_eq!(exact.within_bytes, 0, "{bits} bits were not solved to the end");
        let hull = solved("lagrangian", &problem).unwrap();
        assert!(exact.choice.damage <= hull.choice.damage);
        assert!(hull.within_bytes < 100_000, "{}", hull.within_bytes);
        let dual = smallest_within(&problem, exact.choice.damage, &Silent).unwrap();
        assert!(dual.choice.bytes <= exact.choice.bytes);
        assert!(dual.choice.damage <= exact.choice.damage);
    }
}

#[test]
fn the_ratio_sends_the_least_sensitive_low() {
    let problem = Problem::new(quantised(10, |_| 800), 3000).unwrap();
    let (low, high) = (problem.uniform(2).unwrap(), problem.uniform(4).unwrap());
    let mixed = split(&problem, &low, &high).unwrap();
    let damage = |choice: &Choice, group: usize| {
        problem.groups()[group].options[choice.options[group]].damage
    };
    let rise = |group: usize| damage(&low, group) - damage(&high, group);
    let (low_ones, high_ones): (Vec<usize>, Vec<usize>) =
        (0..10).partition(|&group| mixed.options[group] == 0);
    assert!(high_ones.iter().all(|&group| mixed.options[group] == 2));
    // 10 · 400 bytes high, 200 fewer for each that goes low.
    assert_eq!((low_ones.len(), high_ones.len()), (5, 5));
    assert!(low_ones.iter().all(|&l| high_ones.iter().all(|&h| rise(l) <= rise(h))));
    assert_eq!(by_share(&problem, &low, &high, 0.5).unwrap(), mixed);
    assert_eq!(by_share(&problem, &low, &high, 0.0).unwrap(), high);
    assert_eq!(by_share(&problem, &low, &high, 1.0).unwrap(), low);
}

fn stages() -> Vec<Stage> {
    vec![
        Stage { survivors: 8, tokens: 1 },
        Stage { survivors: 2, tokens: 4 },
        Stage { survivors: 1, tokens: 16 },
    ]
}

#[test]
fn evolution_reaches_the_optimum_of_a_sum_and_keeps_bytes_to_the_last() {
    let groups = quantised(32, |_| 8000);
    let problem = Problem::new(groups, 32 * 3000).unwrap();
    let best = solved("knapsack", &problem).unwrap().choice;
    for seed in 0..5 {
        let settings = Settings {
            offspring: 32,
            generations: 150,
            stages: stages(),
            seed,
            ..Settings::default()
        };
        let mut search = Search::new(&problem, settings, None).unwrap();
        let mut fitness = |trial: Trial<'_>| {
            assert_eq!(problem.choice(trial.options.to_vec()).bytes, 32 * 3000);
            Ok(problem.choice(trial.options.to_vec()).damage)
        };
        search.run(&problem, &mut fitness, &Silent).unwrap();
        assert_near(search.best(&problem).damage, best.damage);
        let trace: Vec<f64> = search.generations().iter().map(|g| g.fitness().unwrap()).collect();
        assert_eq!(trace.len(), 150);
        assert!(trace.is_sorted_by(|a, b| a >= b), "a parent was lost");
    }
}

#[test]
fn evolution_finds_what_sums_cannot_see() {
    // Two groups hurt only together: the sum prefers them both low, the fitness does not.
    let groups: Vec<Group> =
        (0..4).map(|g| group(g, &[(100, 0.1 * g as f64), (200, 0.0)])).collect();
    let problem = Problem::new(groups, 600).unwrap();
    let mut fitness = |trial: Trial<'_>| {
        let low = |group: usize| f64::from(u8::from(trial.options[group] == 0));
        Ok(10.0 * low(0) * low(1) + 0.1 * low(1) + 0.2 * low(2) + 0.3 * low(3))
    };
    let knapsack = solved("knapsack", &problem).unwrap().choice;
    assert_eq!(knapsack.options, [0, 0, 1, 1]);
    let settings =
        Settings { offspring: 8, generations: 20, stages: stages(), ..Settings::default() };
    let mut search = Search::new(&problem, settings, Some(&knapsack.options)).unwrap();
    search.run(&problem, &mut fitness, &Silent).unwrap();
    assert_eq!(search.best(&problem).options, [0, 1, 0, 1]);
}

/// Cancels after so many questions.
struct After(std::sync::atomic::AtomicUsize);

impl Observer for After {
    fn is_cancelled(&self) -> bool {
        let before = |left: usize| Some(left.saturating_sub(1));
        let order = std::sync::atomic::Ordering::SeqCst;
        self.0.fetch_update(order, order, before) == Ok(0)
    }
}

#[test]
fn a_search_that_was_stopped_goes_on_as_if_it_had_not() {
    let problem = Problem::new(quantised(20, |index| 1000 + 97 * index as u64), 14_000).unwrap();
    // Another minibatch each generation, fewer tokens noisier.
    let score = |trial: Trial<'_>| {
        let noise =
            ((trial.generation * 31 + trial.options[0] as u64) % 7) as f64 / trial.tokens as f64;
        Ok(problem.choice(trial.options.to_vec()).damage * (1.0 + 0.01 * noise))
    };
    let settings = Settings {
        offspring: 12,
        generations: 12,
        stages: stages(),
        seed: 3,
        ..Settings::default()
    };
    let mut whole = Search::new(&problem, settings.clone(), None).unwrap();
    whole.run(&problem, &mut { score }, &Silent).unwrap();
    let mut again = Search::new(&problem, settings.clone(), None).unwrap();
    let mut stops = 0;
    for questions in [0, 5, 30, 31, 100, 100_000] {
        let stopped = again.run(&problem, &mut { score }, &After(questions.into()));
        stops += usize::from(matches!(stopped, Err(Error::Cancelled)));
        again = postcard::from_bytes(&postcard::to_stdvec(&again).unwrap()).unwrap();
    }
    assert_eq!(stops, 5);
    assert_eq!(whole, again);
    let mut other = Search::new(&problem, Settings { seed: 4, ..settings }, None).unwrap();
    other.run(&problem, &mut { score }, &Silent).unwrap();
    assert_ne!(whole, other);
    let per_generation = whole.settings().tokens_of_a_generation();
    assert!(whole.generations().iter().all(|generation| generation.tokens <= per_generation));
    assert_eq!(per_generation, 12 + 8 * 4 + 2 * 16 + 16);
}

#[test]
fn a_search_of_another_problem_is_refused() {
    let mut problem = Problem::new(quantised(4, |_| 800), 1200).unwrap();
    let mut search = Search::new(&problem, Settings::default(), None).unwrap();
    problem.set_budget(1100);
    let mut fitness = |_: Trial<'_>| Ok(0.0);
    let error = search.step(&problem, &mut fitness, &Silent).unwrap_err();
    assert!(error.sentence().contains("budget of 1200 bytes"), "{}", error.sentence());
    let problem = Problem::new(quantised(5, |_| 800), 1200).unwrap();
    assert!(search.step(&problem, &mut fitness, &Silent).is_err());
    let too_large = Search::new(&problem, Settings::default(), Some(&[4; 5]));
    assert!(too_large.is_err());
    let stages = vec![Stage { survivors: 0, tokens: 1 }];
    assert!(Search::new(&problem, Settings { stages, ..Settings::default() }, None).is_err());
    let mut search = Search::new(&problem, Settings::default(), None).unwrap();
    let error = search.step(&problem, &mut |_| Ok(f64::NAN), &Silent).unwrap_err();
    assert!(error.sentence().contains("no number"), "{}", error.sentence());
    assert!(search.generations().is_empty());
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let refused = |group: Group, says: &str| {
        let error = Problem::new(vec![group], 100).unwrap_err().sentence();
        assert!(error.contains("group 7") && error.contains(says), "{error}");
    };
    let good = group(7, &[(1, 1.0), (2, 0.5)]);
    refused(group(7, &[]), "0 options");
    refused(group(7, &[(1, f64::NAN)]), "NaN");
    refused(Group { locked: Some(2), ..good.clone() }, "locked to option 2");
    refused(Group { floor_bits: Some(2.5), ceiling_bits: Some(2.9), ..good.clone() }, "floor");
    // A lock is the person's own word: floors do not unlock it.
    let locked = Group { locked: Some(0), floor_bits: Some(3.0), ..good };
    assert_eq!(Problem::new(vec![locked], 100).unwrap().best().options, [0]);
    let huge = Problem::new(vec![group(7, &[(u64::MAX, 0.0)]), group(8, &[(2, 0.0)])], 0);
    assert!(huge.unwrap_err().sentence().contains("2^53"));
    assert!(allocator::find("magic").err().is_some_and(|e| e.sentence().contains("knapsack, ")));
}

#[test]
fn solvers_stop_when_they_are_told_to() {
    let groups = quantised(300, |index| 100_003 + 7 * ((index as u64 * 104_729) % 99_991));
    let budget = groups.iter().map(|group| group.weights).sum::<u64>() * 33 / 80;
    let problem = Problem::new(groups, budget).unwrap();
    assert!(matches!(Frontier::of(&problem, &After(9.into())), Err(Error::Cancelled)));
    for id in ["knapsack", "dual", "evolution"] {
        let stopped = allocator::find(id).unwrap().solve(&problem, &After(0.into()));
        assert!(matches!(stopped, Err(Error::Cancelled)), "{id}");
    }
}
