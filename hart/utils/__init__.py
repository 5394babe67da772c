"""Constants, prompt encoding, safety check, image files and choice of device."""

from hart.lazy import lazy_names

TYPE_CHECKING = False  # type checkers take it for True
if TYPE_CHECKING:
    from hart.utils.constants import default_prompts as default_prompts
    from hart.utils.constants import hart_system_prompt_sha256 as hart_system_prompt_sha256
    from hart.utils.constants import is_hart_system_prompt as is_hart_system_prompt
    from hart.utils.constants import llm_system_prompt as llm_system_prompt
    from hart.utils.constants import max_batch_size as max_batch_size
    from hart.utils.constants import max_seq_len as max_seq_len
    from hart.utils.device import default_device as default_device
    from hart.utils.device import get_device as get_device
    from hart.utils.device import resolve_dtype as resolve_dtype
    from hart.utils.json_files import lru_json_load as lru_json_load
    from hart.utils.prompts import encode_prompts as encode_prompts
    from hart.utils.prompts import tokenize_fn as tokenize_fn

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "hart.utils.constants": (
            "default_prompts",
            "hart_system_prompt_sha256",
            "is_hart_system_prompt",
            "llm_system_prompt",
            "max_batch_size",
            "max_seq_len",
        ),
        "hart.utils.device": ("default_device", "get_device", "resolve_dtype"),
        "hart.utils.json_files": ("lru_json_load",),
        "hart.utils.prompts": ("encode_prompts", "tokenize_fn"),
    },
)
