from django import forms


class TestEmailForm(forms.Form):
    """Where to send a test e-mail."""

    __test__ = False  # pytest, this is no test

    address = forms.EmailField(label="Send to", max_length=254, widget=forms.EmailInput(attrs={"class": "vTextField"}))
