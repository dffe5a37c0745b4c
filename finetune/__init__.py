"""Fine-tuning: labelled texts, a classifier on a pretrained encoder, whole populations of runs trained as one program.

The encoders are `pretrain.models`; a classifier adds the head that transformers' ...ForSequenceClassification of the
same family has, so that models come from and go to the Hugging Face ecosystem unchanged.
"""
