//! The plans of finished outputs, from outside: the target, the numbers of blocks, the very plan where a report has it.

use std::path::{Path, PathBuf};

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::disk;
use lapidary_engine::plan::Plan;

use super::{run, sample, text};
use lapidary::document::project::Project;

/// Exports the sample with a plan and gives the folder.
fn exported(home: &Path, target: &str, plan: &str, more: &str) -> PathBuf {
    let model = sample().canonicalize().expect("the sample");
    let project = home.join("plan.ron");
    let project_text = format!(
        "(version: 3, checkpoint: {:?}, target: {target:?}, plan: {{{plan}}}, {more})",
        model.to_string_lossy()
    );
    disk::write_file(&project, project_text.as_bytes()).expect("a project");
    let out = home.join(format!("out-{target}"));
    let (project, to) = (project.display().to_string(), out.display().to_string());
    let output = run(home, ["compress", &project, "--out", &to]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    out
}

/// What is recovered of an output: stdout, stderr, the project.
fn recovered(home: &Path, output: &Path) -> (String, String, Project) {
    let (model, again) = (sample().display().to_string(), home.join("again.ron"));
    let (from, to) = (output.display().to_string(), again.display().to_string());
    let done = run(home, ["recipe", "recover", &from, "--model", &model, "--out", &to]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    let project = Project::read(&again).expect("a project");
    (text(&done.stdout).to_owned(), text(&done.stderr).to_owned(), project)
}

fn plan_of(project: &Project) -> (Checkpoint, Plan) {
    let checkpoint = Checkpoint::open(&sample()).expect("the sample");
    let plan = project.resolve(&checkpoint).expect("a plan");
    (checkpoint, plan)
}

fn label(project: &Project, name: &str) -> String {
    plan_of(project).1.assignment(&format!("model.layers.{name}_proj.weight")).label()
}

#[test]
fn an_output_without_some_blocks_is_recovered_as_a_plan_for_the_whole_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path();
    let plan = r#""model.layers.*.self_attn.o_proj.weight": (steps: [(method: "round-to-nearest", parameters: {"bits": 4, "clipping": "mse"})]),
        "model.layers.4.mlp.down_proj.weight": (steps: [(method: "round-to-nearest", parameters: {"bits": 8})])"#;
    let out = exported(home, "compressed-tensors", plan, "removed: (blocks: [1, 2])");
    let check = |project: &Project| {
        assert_eq!(project.target, "compressed-tensors");
        assert_eq!(project.removed.told(), "blocks 1 and 2");
        // Block 4 of the model is the second of the output.
        assert_eq!(label(project, "4.mlp.down"), "8-bit g128");
        assert_eq!(label(project, "2.mlp.down"), "keep");
        assert_eq!(label(project, "5.mlp.down"), "keep");
    };
    let (said, unsaid, project) = recovered(home, &out);
    assert!(
        said.starts_with("blocks 1 and 2 taken out, 5 layers compressed, for compressed-tensors"),
        "{said}"
    );
    assert_eq!(unsaid, "");
    check(&project);
    let (_, plan) = plan_of(&project);
    let step = &plan.assignment("model.layers.5.self_attn.o_proj.weight").steps[0];
    assert_eq!(step.parameters.0.get("clipping"), Some(&"mse".into()), "the very plan");
    // Without the report the norms of the blocks that are left say which these are, and codes say no clipping.
    std::fs::remove_file(out.join("lapidary-report.json")).expect("the report");
    let (_, unsaid, project) = recovered(home, &out);
    assert!(
        unsaid.contains("No report says what was taken out") && unsaid.contains("blocks 1 and 2"),
        "{unsaid}"
    );
    check(&project);
    let (_, plan) = plan_of(&project);
    let step = &plan.assignment("model.layers.5.self_attn.o_proj.weight").steps[0];
    assert_eq!(step.parameters.0.get("clipping"), None);
}

#[test]
fn outputs_of_every_format_are_recovered_for_their_own_target() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path();
    let nearest = |more: &str| {
        format!(
            r#""model.layers.0.*_proj.weight": (steps: [(method: "round-to-nearest", parameters: {{"bits": 4, "group_size": 64{more}}})])"#
        )
    };
    let blocks = r#""model.layers.0.*_proj.weight": (steps: [(method: "gguf-blocks", parameters: {"type": "Q6_K"})])"#;
    let asymmetric = r#", "symmetry": "asymmetric""#;
    for (target, plan, wanted, of_files) in [
        ("gptq", nearest(""), "4-bit g64", "4-bit g64"),
        ("gptq-v2", nearest(asymmetric), "4-bit g64 asym", "4-bit g64 asym"),
        // Files of MLX have an offset for each group, whatever made it.
        ("mlx", nearest(""), "4-bit g64", "4-bit g64 hqq"),
        ("archive", nearest(""), "4-bit g64", "4-bit g64"),
        ("gguf", blocks.to_owned(), "Q6_K", "Q6_K"),
    ] {
        let out = exported(home, target, &plan, "");
        let (_, unsaid, exact) = recovered(home, &out);
        assert_eq!((exact.target.as_str(), unsaid.as_str()), (target, ""));
        assert_eq!(exact.plan.0.len(), 1, "the rule as it was written: {:?}", exact.plan);
        std::fs::remove_file(out.join("lapidary-report.json")).expect("the report");
        let (_, _, read) = recovered(home, &out);
        assert_eq!(read.target, target);
        for (project, wanted) in [(&exact, wanted), (&read, of_files)] {
            assert_eq!(label(project, "0.mlp.down"), wanted, "{target}");
            assert_eq!(label(project, "1.mlp.down"), "keep", "{target}");
        }
    }
}

#[test]
fn a_report_of_other_files_is_not_believed() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path();
    let plan = r#""model.layers.0.*_proj.weight": (steps: [(method: "round-to-nearest", parameters: {"bits": 4})])"#;
    let out = exported(home, "gptq", plan, "");
    disk::write_file(&out.join("tokenizer_config.json"), b"{}").expect("a text");
    let (_, unsaid, project) = recovered(home, &out);
    assert!(
        unsaid.contains("report beside it was not used: the file tokenizer_config.json"),
        "{unsaid}"
    );
    assert_eq!(project.target, "gptq");
    assert_eq!(label(&project, "0.mlp.down"), "4-bit g128");
}

#[test]
fn block_types_travel_to_llama_quantize_and_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path();
    let model = sample().canonicalize().expect("the sample").to_string_lossy().into_owned();
    let project = home.join("types.ron").to_string_lossy().into_owned();
    let plan = r#""model.layers.*_proj.weight": (steps: [(method: "gguf-blocks", parameters: {"type": "Q4_K"})])"#;
    let said = format!("(version: 2, checkpoint: {model:?}, target: \"gguf\", plan: {{{plan}}})");
    disk::write_file(Path::new(&project), said.as_bytes()).expect("a project");
    let types = home.join("types.txt").to_string_lossy().into_owned();
    let written = run(home, ["recipe", "write", &project, "--as", "tensor-types", "--out", &types]);
    assert_eq!((written.status.code(), text(&written.stderr)), (Some(0), ""));
    let text_of = disk::read_text(Path::new(&types), 1 << 16).expect("a text");
    assert!(text_of.contains("ffn_down") && text_of.contains("=q4_K"), "{text_of}");
    let again = home.join("again.ron").to_string_lossy().into_owned();
    let asked =
        ["recipe", "read", &types, "--as", "tensor-types", "--model", &model, "--out", &again];
    let read = run(home, asked);
    assert_eq!((read.status.code(), text(&read.stderr)), (Some(0), ""));
    let project = Project::read(Path::new(&again)).expect("a project");
    assert_eq!(project.target, "gguf");
    for name in ["0.mlp.down", "5.self_attn.q"] {
        assert_eq!(label(&project, name), "Q4_K");
    }
}
