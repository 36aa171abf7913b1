"""CLIP's towers and loss, by the library transformers.

Made with torch==2.15.0 transformers==5.24.0. Writes clip.safetensors.
"""

import torch
from transformers import CLIPConfig, CLIPModel

from reference import begin, save

versions = begin("transformers")
LENGTH, VOCABULARY = 9, 30
layers = {"num_hidden_layers": 2, "num_attention_heads": 2}
text = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": LENGTH, **layers}
vision = {"hidden_size": 24, "intermediate_size": 40, "image_size": 12, "patch_size": 4, **layers}
# The token at which a text ends is the last of the vocabulary.
text |= {"bos_token_id": 1, "eos_token_id": VOCABULARY - 1, "pad_token_id": 0}
config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=10)
model = CLIPModel(config).eval()
# What the library leaves at 0 or 1 takes part as well.
with torch.no_grad():
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            value.normal_(0, 0.2)
        elif "norm" in name or "layrnorm" in name:
            value.normal_(1, 0.2)
        elif name != "logit_scale":
            value.normal_(0, 0.3)

ids = torch.randint(1, VOCABULARY - 1, (4, LENGTH))
ends = [8, 3, 5, 2]
for row, end in zip(ids, ends):
    row[end] = VOCABULARY - 1
    row[end + 1 :] = 0
pixels = torch.randn(4, 3, 12, 12)
out = {f"model.{name}": value for name, value in model.state_dict().items() if not name.endswith("position_ids")}
found = model(input_ids=ids, pixel_values=pixels, return_loss=True)
hidden = model.text_model(input_ids=ids).last_hidden_state
grads = torch.autograd.grad(
    found.loss,
    [model.logit_scale, model.text_projection.weight, model.vision_model.embeddings.class_embedding],
)
out |= {
    "ids": ids,
    "ends": torch.tensor(ends),
    "pixels": pixels,
    "hidden": hidden,
    "text": found.text_embeds,
    "image": found.image_embeds,
    "logits": found.logits_per_image,
    "loss": found.loss[None],
    "grad.logit_scale": grads[0].reshape(1),
    "grad.text_projection": grads[1],
    "grad.class_embedding": grads[2],
}
save("clip", out, versions)
