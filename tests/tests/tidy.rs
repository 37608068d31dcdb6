//! The shape of the source itself: who may name whom, what every file opens with, how long things may be.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lapidary_engine::method::METHODS;
use lapidary_tests::layers::LAYERS;
use lapidary_tests::{read, repository};
use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

/// What files of the app in a folder must not name: `(folder, path)`.
const APP_MUST_NOT: &[(&str, &str)] = &[
    ("app/src/views", "lapidary_engine::numeric"),
    ("app/src/views", "lapidary_engine::encoding"),
    ("app/src/views", "lapidary_engine::tensor"),
    ("app/src/widgets", "lapidary_engine"),
    ("app/src/widgets", "crate::document"),
    ("app/src/document", "egui"),
    ("app/src/document", "eframe"),
];

const MAX_FILE_LINES: usize = 500;
const MAX_ENGINE_FUNCTION_LINES: usize = 50;

/// A source file of the project.
struct Source {
    /// Its path in the repository, with forward slashes.
    path: String,
    text: String,
}

impl Source {
    fn syntax(&self) -> syn::File {
        syn::parse_file(&self.text).unwrap_or_else(|error| panic!("{}: {error}", self.path))
    }

    /// Module path inside its crate: `engine/src/format/mod.rs` is `["format"]`.
    fn module(&self) -> Vec<String> {
        let (_, inside) = self.path.split_once("/src/").expect("a file under src");
        let mut parts: Vec<String> =
            inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
            parts.pop();
        }
        parts
    }
}

/// Every `.rs` file under a folder of the repository.
fn sources(folder: &str) -> Vec<Source> {
    let mut paths = Vec::new();
    rust_files(&repository().join(folder), &mut paths);
    paths.sort();
    assert!(!paths.is_empty(), "no sources in {folder}");
    let source = |path: PathBuf| {
        let relative = path.strip_prefix(repository()).expect("in the repository");
        Source {
            path: relative.to_string_lossy().replace('\\', "/"),
            text: String::from_utf8(read(&path)).expect("UTF-8"),
        }
    };
    paths.into_iter().map(source).collect()
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Everything a file names, with the module it is named in.
#[derive(Default)]
struct Names {
    module: Vec<String>,
    /// Paths by segment; those from `crate` and `super` begin with `crate`.
    paths: BTreeSet<Vec<String>>,
    /// Paths that climb more than one module.
    climbs: usize,
    /// String literals outside tests.
    texts: BTreeSet<String>,
    is_in_tests: bool,
    /// Name and length in lines of the functions outside tests.
    functions: Vec<(String, usize)>,
}

impl Names {
    fn of(source: &Source) -> Self {
        let mut names = Self { module: source.module(), ..Self::default() };
        names.visit_file(&source.syntax());
        names
    }

    fn add(&mut self, path: &[String]) {
        let supers = path.iter().take_while(|part| *part == "super").count();
        self.climbs += usize::from(supers > 1);
        let absolute = if supers > 0 {
            let above = self.module.len().saturating_sub(supers);
            let mut absolute = vec!["crate".to_owned()];
            absolute.extend_from_slice(&self.module[..above]);
            absolute.extend_from_slice(&path[supers..]);
            absolute
        } else {
            path.to_vec()
        };
        self.paths.insert(absolute);
    }

    fn add_use(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: String| [before, &[name]].concat();
        match tree {
            syn::UseTree::Path(path) => {
                self.add_use(&with(path.ident.to_string()), &path.tree);
            }
            syn::UseTree::Group(group) => {
                for item in &group.items {
                    self.add_use(before, item);
                }
            }
            syn::UseTree::Name(name) => self.add(&with(name.ident.to_string())),
            syn::UseTree::Rename(name) => self.add(&with(name.ident.to_string())),
            syn::UseTree::Glob(_) => self.add(&with("*".to_owned())),
        }
    }

    /// Macros are not parsed: their paths and texts are read off the tokens.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut joined = false;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if !joined {
                        self.add(&std::mem::take(&mut path));
                    }
                    path.push(ident.to_string());
                    joined = false;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => joined = true,
                TokenTree::Group(group) => self.add_tokens(group.stream()),
                TokenTree::Literal(literal) => {
                    if let (false, Ok(text)) =
                        (self.is_in_tests, syn::parse_str::<syn::LitStr>(&literal.to_string()))
                    {
                        self.texts.insert(text.value());
                    }
                }
                TokenTree::Punct(_) => joined = false,
            }
        }
        self.add(&path);
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    let says_test = |attribute: &syn::Attribute| match &attribute.meta {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        syn::Meta::NameValue(_) => false,
    };
    attributes.iter().any(says_test)
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let was_in_tests = self.is_in_tests;
        self.is_in_tests |= is_test(&item.attrs);
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
        self.is_in_tests = was_in_tests;
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_use(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.add(&segments);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        self.add_tokens(mac.tokens.clone());
        visit::visit_macro(self, mac);
    }

    fn visit_attribute(&mut self, _attribute: &'ast syn::Attribute) {}

    fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
        if !self.is_in_tests {
            self.texts.insert(text.value());
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.measure(&item.sig, item.block.span());
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig, item.block.span());
        visit::visit_impl_item_fn(self, item);
    }
}

impl Names {
    fn measure(&mut self, signature: &syn::Signature, block: proc_macro2::Span) {
        if !self.is_in_tests {
            let lines = block.end().line - signature.span().start().line + 1;
            self.functions.push((signature.ident.to_string(), lines));
        }
    }
}

#[track_caller]
fn assert_none(breaches: &[String]) {
    assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
}

#[test]
fn layers_name_only_layers_below() {
    for (at, (module, allowed)) in LAYERS.iter().enumerate() {
        for name in *allowed {
            let below = LAYERS[..at].iter().any(|(lower, _)| lower == name);
            assert!(below, "{module} may not name {name}, which is not below it");
        }
    }
}

#[test]
fn engine_modules_name_only_lower_layers() {
    let modules: BTreeSet<&str> = LAYERS.iter().map(|(module, _)| *module).collect();
    let (mut breaches, mut imports) = (Vec::new(), 0);
    for source in sources("engine/src") {
        let module = source.module();
        let Some(module) = module.first() else {
            continue; // lib.rs names them all
        };
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| name == module) else {
            panic!("{}: {module} is missing from LAYERS", source.path);
        };
        for path in Names::of(&source).paths {
            let named = match path.as_slice() {
                [root, named, ..] if root == "crate" => named,
                _ => continue,
            };
            imports += usize::from(named != module);
            // What lib.rs hands on counts as naming its module.
            let named = match named.as_str() {
                "Error" | "Result" => "error",
                "Observer" | "Progress" | "Silent" => "observer",
                other => other,
            };
            if named != module && !allowed.contains(&named) {
                let kind = if modules.contains(named) { "a layer it may not" } else { "no layer" };
                breaches.push(format!("{}: {module} names {named}, {kind}", source.path));
            }
        }
    }
    assert!(imports > 100, "only {imports} imports were found: the search is broken");
    assert_none(&breaches);
}

#[test]
fn every_file_says_what_it_is() {
    let all = ["engine", "app", "tests", "benches"].into_iter().flat_map(sources);
    let without: Vec<String> = all
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| format!("{} does not open with //!", source.path))
        .collect();
    assert_none(&without);
}

#[test]
fn files_are_short() {
    let all = ["engine", "app", "tests", "benches"].into_iter().flat_map(sources);
    let long: Vec<String> = all
        .map(|source| (source.path, source.text.lines().count()))
        .filter(|(_, lines)| *lines > MAX_FILE_LINES)
        .map(|(path, lines)| format!("{path} has {lines} lines, more than {MAX_FILE_LINES}"))
        .collect();
    assert_none(&long);
}

#[test]
fn engine_functions_are_short() {
    let mut long = Vec::new();
    let mut count = 0;
    for source in sources("engine/src") {
        for (name, lines) in Names::of(&source).functions {
            count += 1;
            if lines > MAX_ENGINE_FUNCTION_LINES {
                long.push(format!("{}: fn {name} has {lines} lines", source.path));
            }
        }
    }
    assert!(count > 200, "only {count} functions were found");
    assert_none(&long);
}

#[test]
fn no_path_climbs_more_than_one_module() {
    let all = ["engine/src", "app/src"].into_iter().flat_map(sources);
    let climbing: Vec<String> = all
        .filter(|source| Names::of(source).climbs > 0)
        .map(|source| format!("{} says super::super", source.path))
        .collect();
    assert_none(&climbing);
}

#[test]
fn the_app_writes_no_method_id() {
    let ids: Vec<&str> = METHODS.iter().map(|method| method.about().id).collect();
    let mut breaches = Vec::new();
    for source in sources("app/src") {
        let texts = Names::of(&source).texts;
        for id in ids.iter().filter(|id| texts.contains(**id)) {
            breaches.push(format!("{} writes the method id {id:?}", source.path));
        }
    }
    assert_none(&breaches);
}

#[test]
fn only_disk_touches_files_and_the_engine_knows_no_window() {
    let (mut breaches, mut touches) = (Vec::new(), 0);
    for source in sources("engine/src") {
        for path in Names::of(&source).paths {
            let begins = |with: &[&str]| path.iter().take(with.len()).eq(with);
            let is_files = begins(&["std", "fs"]) || begins(&["fs4"]) || begins(&["memmap2"]);
            touches += usize::from(is_files);
            if is_files && !source.path.starts_with("engine/src/disk/") {
                breaches.push(format!("{} names {}", source.path, path.join("::")));
            }
            if begins(&["egui"]) || begins(&["eframe"]) {
                breaches.push(format!("{} names {}", source.path, path.join("::")));
            }
        }
    }
    assert!(touches > 0, "disk itself was not seen to touch files");
    let manifest = String::from_utf8(read(&repository().join("engine/Cargo.toml"))).unwrap();
    assert!(!manifest.contains("egui") && !manifest.contains("eframe"));
    assert_none(&breaches);
}

#[test]
fn views_widgets_and_the_document_keep_to_themselves() {
    let mut breaches = Vec::new();
    for source in sources("app/src") {
        let paths = Names::of(&source).paths;
        for (folder, forbidden) in APP_MUST_NOT {
            let forbidden: Vec<&str> = forbidden.split("::").collect();
            let is_named =
                paths.iter().any(|path| path.iter().take(forbidden.len()).eq(&forbidden));
            if source.path.starts_with(folder) && is_named {
                breaches.push(format!("{} names {}", source.path, forbidden.join("::")));
            }
        }
    }
    assert_none(&breaches);
}

#[test]
fn views_do_not_name_each_other() {
    let all = sources("app/src/views");
    let views: BTreeSet<String> = all.iter().filter_map(|s| s.module().get(1).cloned()).collect();
    assert!(views.len() > 5, "{views:?}");
    let mut breaches = Vec::new();
    for source in &all {
        let module = source.module();
        let Some(own) = module.get(1) else {
            continue; // the list of views names them all
        };
        for path in Names::of(source).paths {
            if let [root, shelf, other, ..] = path.as_slice()
                && (root.as_str(), shelf.as_str()) == ("crate", "views")
                && views.contains(other)
                && other != own
            {
                breaches.push(format!("{}: {own} names {other}", source.path));
            }
        }
    }
    assert_none(&breaches);
}
