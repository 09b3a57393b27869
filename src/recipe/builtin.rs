//! The recipes inside the binary: the same files as `recipes/`, so that they always match the version.

/// Name, text and one line about each built-in recipe.
pub const ALL: [(&str, &str, &str); 18] = [
    (
        "quickstart",
        include_str!("../../recipes/quickstart.toml"),
        "the whole path on the built-in stories, 4 minutes on 2 cores",
    ),
    (
        "pictures",
        include_str!("../../recipes/pictures.toml"),
        "captions and pictures from one model: words left to right, then the picture by diffusion",
    ),
    (
        "shakespeare",
        include_str!("../../recipes/shakespeare.toml"),
        "few steps on characters of a text file of your own: a teacher, and students in fixed phases, three seeds",
    ),
    (
        "stories-en",
        include_str!("../../recipes/stories-en.toml"),
        "the study of `shakespeare` on short English stories in subwords that the recipe learns itself",
    ),
    (
        "dependent",
        include_str!("../../recipes/dependent.toml"),
        "eight steps whose draws depend on each other: shared uniforms and the alpha loss, on characters",
    ),
    (
        "kd",
        include_str!("../../recipes/kd.toml"),
        "a student of half its teacher's blocks by knowledge distillation at equal steps, 4 minutes on 2 cores",
    ),
    (
        "hybrid",
        include_str!("../../recipes/hybrid.toml"),
        "autoregression, parallel, blocks, AR-Diffusion, pipelines, deeper layers and a switch, on one page",
    ),
    (
        "consistency",
        include_str!("../../recipes/consistency.toml"),
        "few-step students of the story language at one budget of forward passes, three seeds",
    ),
    (
        "latent",
        include_str!("../../recipes/latent.toml"),
        "stories through 8 latents, denoised in one, two and four steps by every method; beside tokens",
    ),
    (
        "latent-shakespeare",
        include_str!("../../recipes/latent-shakespeare.toml"),
        "latent diffusion and its few-step students on characters of a text file of your own",
    ),
    (
        "hybrid-shakespeare",
        include_str!("../../recipes/hybrid-shakespeare.toml"),
        "the orders of `hybrid` on characters of a text file of your own",
    ),
    (
        "control",
        include_str!("../../recipes/control.toml"),
        "stories on demand: a prefix, masked infilling, a diffusion of embeddings, and guidance by a classifier",
    ),
    (
        "control-e2e",
        include_str!("../../recipes/control-e2e.toml"),
        "the arms of `control` on pairs of attributes and sentences in files of your own",
    ),
    (
        "mdlm-owt",
        include_str!("../../recipes/mdlm-owt.toml"),
        "a published MDLM checkpoint to a student of 8 steps, for one large GPU",
    ),
    (
        "llada-8b-lora",
        include_str!("../../recipes/llada-8b-lora.toml"),
        "LLaDA-8B to a student of few steps by adapters on frozen weights, for one 80 GB GPU",
    ),
    (
        "dream-7b-lora",
        include_str!("../../recipes/dream-7b-lora.toml"),
        "Dream-7B to a student of few steps by adapters on frozen weights, for one 80 GB GPU",
    ),
    (
        "qwen3-diffusion",
        include_str!("../../recipes/qwen3-diffusion.toml"),
        "dllm's diffusion Qwen3-0.6B to a student of few steps, for one 80 GB GPU",
    ),
    ("tiny", include_str!("../../recipes/tiny.toml"), "seconds: for trying commands out and for tests"),
];

/// The text of the built-in recipe `name`.
pub fn find(name: &str) -> Option<&'static str> {
    ALL.iter().find(|r| r.0 == name).map(|r| r.1)
}

/// The names of the built-in recipes.
pub fn names() -> impl Iterator<Item = &'static str> + Clone {
    ALL.iter().map(|r| r.0)
}
