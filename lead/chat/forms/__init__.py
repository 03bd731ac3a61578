"""Forms in which models write calls of tools and thinking: how they are read, and which one a model has."""

from lead.chat.forms.form import Form
from lead.chat.forms.table import FORMS, form_of

__all__ = ["FORMS", "Form", "form_of"]
